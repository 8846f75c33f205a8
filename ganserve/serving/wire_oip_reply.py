"""Replies of the Open Inference Protocol: finished rows → one message."""

from collections.abc import Sequence

import numpy as np

from ganserve.errors import InvalidArgument, RequestError
from ganserve.inference import messages as pb
from ganserve.serving.call import SEED
from ganserve.serving.oip import Made, Run
from ganserve.serving.oip_ports import BYTES, INDEX, datatype_of, outlets_of
from ganserve.serving.wire_oip import Wish
from ganserve.serving.wire_oip_tensors import add_output, packed

FINAL = "triton_final_response"
"""The parameter of a reply in a stream that says whether it is the last one to its request."""


def response_of(wish: Wish, run: Run, made: Sequence[Made]) -> pb.ModelInferResponse:
    """The rows ``made`` as a message. :class:`InvalidArgument` where they differ in size, so that no tensor holds them."""
    manifest = wish.model.manifest
    response = pb.ModelInferResponse(model_name=manifest.name, model_version=str(manifest.version), id=wish.request.id)
    response.parameters["determinism"].string_param = "bit_exact" if run.bit_exact else "tolerance"
    response.parameters["engines"].string_param = ",".join(dict.fromkeys(run.engines))
    for name in wish.outputs or _by_default(wish, made):
        if name == wish.task.task.output.tensor:
            _add_result(response, wish, name, made)
        else:
            _add_tensor(response, name, [_tensor(name, one) for one in made])
    return response


def answer_of(response: pb.ModelInferResponse, *, final: bool) -> pb.ModelStreamInferResponse:
    """``response`` as one of a stream."""
    response.parameters[FINAL].bool_param = final
    return pb.ModelStreamInferResponse(infer_response=response)


def refusal_of(request: pb.ModelInferRequest, error: RequestError) -> pb.ModelStreamInferResponse:
    """``error`` as the answer to one request of a stream."""
    failed = pb.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    answer = answer_of(failed, final=True)
    answer.error_message = f"{error.code}: {error}"
    return answer


def _by_default(wish: Wish, made: Sequence[Made]) -> list[str]:
    """The outputs of a request that names none: the result, what a search has found, and where the noise came from."""
    result = wish.task.task.output.tensor
    found = outlets_of(wish.task) if wish.task.task.inversion is not None else [result, SEED, INDEX]
    drawn = all(one.pair is not None for one in made)
    return [name for name in found if drawn or name not in (SEED, INDEX)]


def _tensor(name: str, made: Made) -> np.ndarray:
    if name not in (SEED, INDEX):
        return made.tensors[name]
    if made.pair is None:
        raise InvalidArgument.of(f"outputs[{name}]", "there is none: no noise is drawn")
    return np.array(made.pair[name == INDEX], np.uint64)


def _add_result(response: pb.ModelInferResponse, wish: Wish, name: str, made: Sequence[Made]) -> None:
    data = [one.media.data for one in made]
    if wish.parameters.format != "raw":
        add_output(response, name, BYTES, [len(made), 1], packed(data))
        return
    shapes = {tuple(one.media.attributes[side] for side in _sides(one)) for one in made}
    shape = _only(name, shapes)
    add_output(response, name, outlets_of(wish.task)[name].datatype, [len(made), *(shape or (1,))], b"".join(data))


def _sides(made: Made) -> Sequence[str]:
    return ("height", "width", "channels") if made.media.kind == "image" else tuple(made.media.attributes)


def _add_tensor(response: pb.ModelInferResponse, name: str, rows: Sequence[np.ndarray]) -> None:
    shape = _only(name, {row.shape for row in rows})
    array = np.stack(rows)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    add_output(response, name, datatype_of(array.dtype), [len(rows), *(shape or (1,))], little.tobytes())


def _only(name: str, shapes: set[tuple[int, ...]]) -> tuple[int, ...]:
    if len(shapes) > 1:
        one, other, *_ = sorted(shapes)
        raise InvalidArgument.of(
            f"outputs[{name}]",
            f"rows have different shapes, such as {list(one)} and {list(other)}; send them in requests of their own"
            " or, if they are pictures, ask for another format than raw",
        )
    return next(iter(shapes))
