"""Requests that are taken as they are: what damaged ones are made of."""

from typing import Any

import numpy as np

from ganserve.inference import messages as oip
from ganserve.v1 import generation_pb2, inversion_pb2, latents_pb2, media_pb2, text_pb2


def requests() -> list[tuple[int, Any]]:
    """A request or two of each rpc, by its place in :class:`bench.chaos.fuzz_targets.Messages`."""
    pb, latent = generation_pb2, latents_pb2
    picture = np.zeros((4, 4, 3), np.uint8).tobytes()
    z = np.zeros((1, 4), np.float32)
    sample = pb.SampleRequest(model="echo", task="sample", count=3, seed=7, truncation=[0.5], return_tensors=["w"])
    sample.labels.add(name="star")
    given = pb.SampleRequest(task="sample", count=2)
    given.tensors["z"].shape.extend(z.shape)
    given.tensors["z"].data, given.tensors["z"].data_type = z.tobytes(), media_pb2.DATA_TYPE_FLOAT32
    walk = pb.SampleRequest(task="walk", seeds=[1, 2])
    walk.numbers["steps"].values.append(5)
    moved = pb.SampleRequest(task="sample", count=2, seed=1)
    moved.labels.add(index=1)
    moved.directions["brighter"].values.append(0.5)
    translate = pb.TranslateRequest(task="blend")
    for name in ("image", "reference"):
        translate.images[name].data = picture
        translate.images[name].width = translate.images[name].height = 4
        translate.images[name].channels, translate.images[name].format = 3, media_pb2.IMAGE_FORMAT_RAW
    invert = inversion_pb2.InvertRequest(steps=20, progress_every=2)
    invert.image.CopyFrom(translate.images["image"])
    making = latent.Making(return_tensors=["w"])
    keys = [latent.Point(seed=pb.SeedIndex(seed=number), label=pb.Label(index=1)) for number in (1, 2)]
    return [
        (0, sample), (0, given), (0, walk), (1, moved), (2, translate), (3, invert),
        (4, latent.InterpolateRequest(task="sample", making=making, keys=keys, frames=5, latent="w")),
        (5, latent.MixRequest(task="sample", latent="w", making=making, bases=keys, styles=keys[:1], layers=[1])),
        (6, latent.CombineRequest(task="sample", making=making, terms=[latent.Term(point=keys[0], weight=0.5)], latent="w")),
        (7, text_pb2.TextToImageRequest(prompts=["a red hat"], count=2, seed=5)),
    ]  # fmt: skip


def inferences() -> list[Any]:
    """Requests with raw contents, and some with typed ones."""
    made = []
    for model, task, name, datatype, shape, raw in (
        ("echo", "sample", "z", "FP32", [2, 4], bytes(32)),
        ("echo", "sample", "seed", "UINT64", [2], bytes(16)),
        ("echo", "sample", "label", "BYTES", [1], b"\4\0\0\0star"),
        ("echo", "negative", "image", "UINT8", [1, 2, 2, 3], bytes(12)),
        ("echo-style", "drawn", "direction.brighter", "FP32", [1], bytes(4)),
        ("echo-text", "imagine", "prompt", "BYTES", [1], b"\5\0\0\0hello"),
    ):
        request = oip.ModelInferRequest(model_name=model)
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(raw)
        request.parameters["task"].string_param = task
        request.parameters["format"].string_param = "webp"
        made.append(request)
    typed = oip.ModelInferRequest(model_name="echo")
    typed.inputs.add(name="z", datatype="FP32", shape=[2, 4]).contents.fp32_contents.extend([0.5] * 8)
    typed.inputs.add(name="label", datatype="INT64", shape=[2]).contents.int64_contents.extend([0, 1])
    typed.parameters["task"].string_param = "sample"
    return [*made, typed]
