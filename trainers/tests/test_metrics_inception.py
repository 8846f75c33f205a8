import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from ganserve.errors import DataError
from ganserve_trainers.metrics import frechet
from ganserve_trainers.metrics.inception import ConvUnit, FeatureExtractor, InceptionFeatures
from ganserve_trainers.metrics.tfjs import LayersModel, read_layers_model

PACKAGE = os.environ.get("GANSERVE_NSFWJS")
needs_package = pytest.mark.skipif(
    PACKAGE is None, reason="GANSERVE_NSFWJS does not name the unpacked npm package nsfwjs 4.3.0"
)


def write_model(folder: Path, shards: tuple[bytes, ...] = (b"\x00\x01\x02", b"\xff\x80")) -> Path:
    wrap = '!function(e){"object"==typeof exports&&(module.exports=e())}({1:[function(t,n,i){n.exports=%s},{}]},{},[1])(1)});'
    paths = ",".join(f'"shard{number}"' for number in range(len(shards)))
    literal = (
        '{modelTopology:{model_config:{class_name:"Model",config:{layers:[{name:"a: !0 .5 \\"b:",on:!0,off:!1,rate:.25,'
        f"low:-.5,tiny:9e-7,none:null}}]}}}}}},weightsManifest:[{{paths:[{paths}],weights:["
        '{name:"w",shape:[2,2],dtype:"float32",quantization:{min:-1,scale:.5,dtype:"uint8"}},'
        '{name:"b",shape:[],dtype:"float32",quantization:{min:.25,scale:1,dtype:"uint8"}}]}]}'
    )
    (folder / "model.min.js").write_text(wrap % literal)
    for number, shard in enumerate(shards):
        (folder / f"shard{number}.min.js").write_text(wrap % f'"{base64.b64encode(shard).decode()}"')
    return folder


def test_a_minified_layers_model_is_read_as_text(tmp_path: Path):
    model = read_layers_model(write_model(tmp_path))
    assert model.layers == (
        {"name": 'a: !0 .5 "b:', "on": True, "off": False, "rate": 0.25, "low": -0.5, "tiny": 9e-7, "none": None},
    )
    np.testing.assert_array_equal(model.weights["w"], np.array([[-1.0, -0.5], [0.0, 126.5]], np.float32))
    np.testing.assert_array_equal(model.weights["b"], np.float32(128.25))


@pytest.mark.parametrize(
    ("shards", "message"),
    [((b"\x00\x01",), "end within weight w"), ((b"\x00" * 9,), "hold 9 bytes, the manifest names 5")],
)
def test_shards_that_do_not_hold_the_weights_are_refused(tmp_path: Path, shards: tuple[bytes, ...], message: str):
    with pytest.raises(DataError, match=message):
        read_layers_model(write_model(tmp_path, shards))


def test_a_script_that_is_more_than_data_is_refused(tmp_path: Path):
    (tmp_path / "model.min.js").write_text("n.exports={modelTopology:fetch()}")
    with pytest.raises(DataError, match="more than data"):
        read_layers_model(tmp_path)


def test_a_missing_package_says_how_to_get_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"npm pack nsfwjs@4\.3\.0"):
        FeatureExtractor(tmp_path)
    (tmp_path / "package.json").write_text('{"name": "nsfwjs", "version": "4.2.1"}')
    with pytest.raises(DataError, match=r"holds nsfwjs 4\.2\.1, expected nsfwjs 4\.3\.0"):
        FeatureExtractor(tmp_path)


def random_weights(network: InceptionFeatures) -> dict[str, np.ndarray]:
    rng, weights = np.random.default_rng(0), {}
    units = [module for module in network.modules() if isinstance(module, ConvUnit)]
    for number, unit in enumerate(units, start=1):
        outputs, inputs, height, width = unit.convolution.weight.shape
        batch_norm = f"batch_normalization_{number}"
        weights[f"conv2d_{number}/kernel"] = rng.normal(size=(height, width, inputs, outputs)).astype(np.float32)
        weights[f"{batch_norm}/beta"] = rng.normal(size=outputs).astype(np.float32)
        weights[f"{batch_norm}/moving_mean"] = rng.normal(size=outputs).astype(np.float32)
        weights[f"{batch_norm}/moving_variance"] = rng.uniform(0.1, 2.0, size=outputs).astype(np.float32)
    return weights


def unit(x: torch.Tensor, weights: Mapping[str, np.ndarray], number: int, **options: Any) -> torch.Tensor:
    """Convolution, batch normalization and ReLU as Keras defines them, one after the other."""
    kernel = torch.from_numpy(weights[f"conv2d_{number}/kernel"]).permute(3, 2, 0, 1)
    beta, mean, variance = (
        torch.from_numpy(weights[f"batch_normalization_{number}/{name}"])
        for name in ("beta", "moving_mean", "moving_variance")
    )
    x = functional.conv2d(x, kernel, **options)
    return functional.relu(functional.batch_norm(x, mean, variance, bias=beta, eps=1e-3))


def test_batch_normalization_is_folded_into_the_convolution():
    network = InceptionFeatures()
    weights = random_weights(network)
    assert len(weights) == 4 * 50
    network.load(weights)
    x = torch.rand(2, 3, 31, 31, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network.layers[0](x), unit(x, weights, 1, stride=2), rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused():
    network = InceptionFeatures()
    weights = random_weights(network)
    with pytest.raises(DataError, match=r"conv2d_50 has shape \[7, 768, 1, 1\]"):
        network.load(weights | {"conv2d_50/kernel": np.zeros((1, 1, 768, 7), np.float32)})
    del weights["conv2d_7/kernel"]
    with pytest.raises(DataError, match="have no 'conv2d_7/kernel'"):
        network.load(weights)


@pytest.mark.parametrize("images", [np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 3, 8, 8), np.uint8)])
@needs_package
def test_images_in_another_layout_are_refused(images: np.ndarray):
    with pytest.raises(DataError, match="expected uint8"):
        FeatureExtractor(Path(str(PACKAGE)))(images)


def run_topology(model: LayersModel, x: torch.Tensor, last: str) -> torch.Tensor:
    """Keras' own graph, layer by layer, as the package's topology lists it."""
    values: dict[str, torch.Tensor] = {}
    for layer in model.layers:
        name, config = str(layer["name"]), layer["config"]
        inputs = [values[node[0]] for node in layer["inbound_nodes"][0]] if layer["inbound_nodes"] else []
        match layer["class_name"]:
            case "InputLayer":
                values[name] = x
            case "Conv2D":
                kernel = torch.from_numpy(model.weights[f"{name}/kernel"]).permute(3, 2, 0, 1)
                padding = "same" if config["padding"] == "same" else 0
                values[name] = functional.conv2d(inputs[0], kernel, stride=config["strides"], padding=padding)
            case "BatchNormalization":
                weight = [model.weights[f"{name}/{part}"] for part in ("moving_mean", "moving_variance", "beta")]
                mean, variance, beta = (torch.from_numpy(part) for part in weight)
                values[name] = functional.batch_norm(inputs[0], mean, variance, bias=beta, eps=config["epsilon"])
            case "Activation":
                assert config["activation"] == "relu"
                values[name] = functional.relu(inputs[0])
            case "MaxPooling2D":
                assert config["padding"] == "valid"
                values[name] = functional.max_pool2d(inputs[0], config["pool_size"], config["strides"])
            case "AveragePooling2D":
                assert (config["padding"], config["pool_size"], config["strides"]) == ("same", [3, 3], [1, 1])
                # Keras leaves the padding out of an average.
                summed = functional.avg_pool2d(inputs[0], 3, 1, 1, divisor_override=1)
                values[name] = summed / functional.avg_pool2d(torch.ones_like(inputs[0]), 3, 1, 1, divisor_override=1)
            case "Concatenate":
                values[name] = torch.cat(inputs, dim=1)
            case unknown:
                raise AssertionError(unknown)
        if name == last:
            break
    return values[last]


@needs_package
@torch.inference_mode()
def test_the_network_of_the_paper_is_the_one_of_the_topology():
    folder = Path(str(PACKAGE))
    extractor = FeatureExtractor(folder)
    x = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0))
    expected = run_topology(read_layers_model(folder / "dist" / "models" / "inception_v3"), x, "mixed5")
    assert expected.shape == (2, 768, 17, 17)
    assert expected.std() > 0.1
    torch.testing.assert_close(extractor.network.layers(x), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(extractor.network(x), expected.mean(dim=(2, 3)), rtol=1e-3, atol=1e-3)


@needs_package
def test_distances_grow_with_blur_and_noise():
    from PIL import Image, ImageFilter
    from sklearn.datasets import load_sample_image

    extractor, rng = FeatureExtractor(Path(str(PACKAGE))), np.random.default_rng(0)
    photo = load_sample_image("china.jpg")
    places = rng.integers(0, (photo.shape[0] - 64, photo.shape[1] - 64), size=(48, 2))
    crops = np.stack([photo[top : top + 64, left : left + 64] for top, left in places])
    reference, others = frechet.fit(extractor(crops[:24])), crops[24:]

    def away(images: np.ndarray) -> float:
        return frechet.distance(frechet.fit(extractor(images)), reference)

    def blurred(sigma: float) -> np.ndarray:
        return np.stack([np.asarray(Image.fromarray(i).filter(ImageFilter.GaussianBlur(sigma))) for i in others])

    def noisy(deviation: float) -> np.ndarray:
        return (others + rng.normal(0, deviation, others.shape)).clip(0, 255).astype(np.uint8)

    real = away(others)
    assert real < away(blurred(1.0)) < away(blurred(3.0))
    assert real < away(noisy(10)) < away(noisy(40))
    assert away(np.array(rng.integers(0, 256, others.shape), np.uint8)) > 5 * real
