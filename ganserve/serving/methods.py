"""What every rpc of the server is for, as far as access goes. An rpc without a line here is refused, and a test names it."""

import enum
from collections.abc import Mapping


class Kind(enum.Enum):
    """What an rpc is for."""

    HEALTH = "health"
    """Tells whether something lives. Answered to anyone, at any time: probes have no token."""
    METADATA = "metadata"
    """Tells what there is."""
    INFERENCE = "inference"
    """Computes."""
    MANAGEMENT = "management"
    """Changes what is served."""


METHODS: Mapping[str, Kind] = {
    "/ganserve.v1.Generation/Sample": Kind.INFERENCE,
    "/ganserve.v1.Generation/SampleStream": Kind.INFERENCE,
    "/ganserve.v1.Generation/Translate": Kind.INFERENCE,
    "/ganserve.v1.Generation/TranslateStream": Kind.INFERENCE,
    "/ganserve.v1.Inversion/Invert": Kind.INFERENCE,
    "/ganserve.v1.Latents/Combine": Kind.INFERENCE,
    "/ganserve.v1.Latents/Interpolate": Kind.INFERENCE,
    "/ganserve.v1.Latents/Mix": Kind.INFERENCE,
    "/ganserve.v1.Models/Get": Kind.METADATA,
    "/ganserve.v1.Models/List": Kind.METADATA,
    "/ganserve.v1.Models/Load": Kind.MANAGEMENT,
    "/ganserve.v1.Models/Reload": Kind.MANAGEMENT,
    "/ganserve.v1.Models/Unload": Kind.MANAGEMENT,
    "/ganserve.v1.Text/TextToImage": Kind.INFERENCE,
    "/ganserve.v1.Text/TextToImageStream": Kind.INFERENCE,
    "/inference.GRPCInferenceService/ModelConfig": Kind.METADATA,
    "/inference.GRPCInferenceService/ModelInfer": Kind.INFERENCE,
    "/inference.GRPCInferenceService/ModelMetadata": Kind.METADATA,
    "/inference.GRPCInferenceService/ModelReady": Kind.HEALTH,
    "/inference.GRPCInferenceService/ModelStatistics": Kind.METADATA,
    "/inference.GRPCInferenceService/ModelStreamInfer": Kind.INFERENCE,
    "/inference.GRPCInferenceService/RepositoryIndex": Kind.METADATA,
    "/inference.GRPCInferenceService/RepositoryModelLoad": Kind.MANAGEMENT,
    "/inference.GRPCInferenceService/RepositoryModelUnload": Kind.MANAGEMENT,
    "/inference.GRPCInferenceService/ServerLive": Kind.HEALTH,
    "/inference.GRPCInferenceService/ServerMetadata": Kind.METADATA,
    "/inference.GRPCInferenceService/ServerReady": Kind.HEALTH,
    "/grpc.health.v1.Health/Check": Kind.HEALTH,
    "/grpc.health.v1.Health/Watch": Kind.HEALTH,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Kind.METADATA,
}
"""Every rpc by the path that gRPC calls it. A new one: add its line."""
