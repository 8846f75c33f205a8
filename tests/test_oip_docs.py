"""docs/oip.md tells what the code says."""

import re
from pathlib import Path

import msgspec

from ganserve.codecs import SIZES
from ganserve.codecs.image import FORMATS
from ganserve.inference import messages as pb
from ganserve.serving.oip_parameters import Parameters
from ganserve.serving.oip_ports import INVERSION
from ganserve.serving.service_oip import ERRORS_AS_STATUS

PAGE = (Path(__file__).parent.parent / "docs" / "oip.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under ``heading``."""
    text = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\| (.+) \|$", text, re.MULTILINE)[1:]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines]


def test_every_parameter_is_told_with_its_type_and_default() -> None:
    told = {name.strip("`"): (kind, default) for name, kind, default, _ in rows("Parameters")}
    fields = {field.name: field for field in msgspec.structs.fields(Parameters) if field.name != "said"}
    assert list(told) == list(fields)
    types = {"integer": 3, "string": "png", "bool": True, "double": 2.5}
    for name, (kind, default) in told.items():
        shown = {"–": (None, ""), "false": (False,)}.get(default, (default,))
        assert fields[name].default in shown or str(fields[name].default) in shown, name
        for other, value in types.items():
            try:
                msgspec.convert(value, fields[name].type)
            except msgspec.ValidationError as error:
                refused = "got `" in str(error)
            else:
                refused = False
            # A whole number will do where any number does.
            assert refused == (other != kind and (kind, other) != ("double", "integer")), (name, other)


def test_formats_sizes_and_outputs_are_told() -> None:
    meanings = {name.strip("`"): meaning for name, _, _, meaning in rows("Parameters")}
    assert set(re.findall("`([^`]+)`", meanings["format"])) == set(FORMATS)
    assert set(re.findall("`([^`]+)`", meanings["size"])) == set(SIZES)
    assert re.findall("`([^`]+)`", rows("Outputs")[-1][0]) == list(INVERSION)


def test_statistics_are_told() -> None:
    told = {name for cell, _ in rows("Statistics") for name in re.findall("`([^`]+)`", cell)}
    fields = {*pb.ModelStatistics.DESCRIPTOR.fields_by_name, *pb.InferStatistics.DESCRIPTOR.fields_by_name}
    assert told == fields - {"name", "version", "last_inference", "inference_stats"}


def test_the_header_for_errors_is_told() -> None:
    assert f"`{': '.join(ERRORS_AS_STATUS)}`" in PAGE
