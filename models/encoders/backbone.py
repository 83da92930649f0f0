"""A network for picture classification, cut before its classifier."""

import difflib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from models.encoders.memory import Encoder, Memory, open_memory

CLASSES = 7  # a number of classes that no inner layer has for its width: it marks the classifier


class Backbone(Encoder):
    """Pictures (B, 3, H, W) → Memory of grid × grid places, from any classifier of torchvision.

    Built without weights: `load_weights` takes them. Frozen, it stays in evaluation mode and has
    no gradients, so its features may be computed once and kept (`cacheable`): `feature_numbers` of
    them a picture. Xu et al. 2015, arXiv 1502.03044, describe pictures from such features.
    """

    def __init__(
        self,
        *,
        picture_shape: Sequence[int],
        name: str = "squeezenet1_0",
        node: str | None = None,
        grid: int = 6,
        frozen: bool = True,
    ) -> None:
        """`node` names the feature map to read (B, D, h, w); None: the last before the classifier.

        Nodes are those of torchvision's `get_graph_node_names`.
        """
        super().__init__()
        if picture_shape[0] != 3:
            raise ValueError(f"{name} reads pictures of 3 colours, got {picture_shape[0]}")
        if grid < 1:
            raise ValueError(f"grid is the number of places along a side, 1 or more, got {grid}")
        model = _build(name)
        probe = torch.zeros(1, *picture_shape)
        self.node = node or _last_map(model, probe, name)
        self.network = _cut(model, self.node, name)
        self.pruned = model.state_dict().keys() - self.network.state_dict().keys()
        self.name = name
        self.grid = grid
        self.frozen = frozen
        self.cacheable = frozen
        self.network.requires_grad_(not frozen)
        fields = _try(self.network, probe, name)[self.node]
        if not isinstance(fields, Tensor) or fields.dim() != 4:
            raise ValueError(f"node {self.node!r} of {name} is not a feature map (B, D, h, w)")
        self.output_size = fields.size(1)
        self.feature_numbers = grid * grid * self.output_size
        # Activations of a foreign network may be of any scale; tanh in the decoder wants one.
        self.norm = nn.LayerNorm(self.output_size)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def forward(self, pictures: Tensor) -> Memory:
        return self.from_features(self.features(pictures))

    def features(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) → what the backbone sees at each place (B, grid², D)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            fields = self.network(pictures)[self.node]
            return F.adaptive_avg_pool2d(fields, self.grid).flatten(2).transpose(1, 2)

    def unchanging(self) -> tuple[nn.Module, list[str | int]]:
        return self.network, [self.name, self.node, self.grid, torchvision.__version__]

    def from_features(self, values: Tensor) -> Memory:
        """Features, kept in whatever precision, (B, grid², D) → Memory."""
        return open_memory(self.norm(values.to(self.norm.weight.dtype)))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take torchvision's weights for this backbone; those of its classifier are left out.

        ValueError names what is missing, unknown or of another shape.
        """
        own = self.network.state_dict()
        counters = {key for key in own if key.endswith("num_batches_tracked")}  # older files
        faults = {
            "lacks": own.keys() - counters - weights.keys(),
            "has the unknown": weights.keys() - own.keys() - self.pruned,
            "has of another shape": {
                key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape
            },
        }
        for fault, keys in faults.items():
            if keys:
                raise ValueError(
                    f"this is not a file of weights for {self.name}: it {fault} "
                    f"{', '.join(sorted(keys)[:3])} ({len(keys)} in all)"
                )
        known = {key: weights[key] for key in own.keys() & weights.keys()}
        self.network.load_state_dict(known, strict=False)


def _build(name: str) -> nn.Module:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names
        raise ValueError(f"torchvision has no classifier {name!r}; near it: {', '.join(near)}")
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    return model


def _cut(model: nn.Module, node: str, name: str) -> nn.Module:
    try:
        return create_feature_extractor(model, [node], suppress_diff_warning=True)
    except ValueError as error:
        _, nodes = get_graph_node_names(model, suppress_diff_warning=True)
        near = difflib.get_close_matches(node, nodes, n=5, cutoff=0.3) or nodes[-5:]
        raise ValueError(f"{name} has no node {node!r}; near it: {', '.join(near)}") from error


@torch.no_grad()
def _try(network: nn.Module, probe: Tensor, name: str) -> dict[str, object]:
    """Run one picture through, in evaluation mode."""
    try:
        return network.eval()(probe)
    except RuntimeError as error:
        raise ValueError(
            f"{name} cannot read pictures of {tuple(probe.shape[1:])} ({error}): use larger ones, "
            "data.size"
        ) from error


def _last_map(model: nn.Module, probe: Tensor, name: str) -> str:
    """The last (1, D, h, w) of more than one place that is not the classifier's own."""
    training, nodes = get_graph_node_names(model, suppress_diff_warning=True)
    classifier = {
        key.split(".")[0] for key, value in model.named_parameters() if value.size(0) == CLASSES
    }
    nodes = [n for n in nodes if n in training and n.split(".")[0] not in classifier]
    everything = create_feature_extractor(model, nodes, suppress_diff_warning=True)
    seen = _try(everything, probe, name)
    maps = [
        node
        for node, value in seen.items()
        if isinstance(value, Tensor) and value.dim() == 4 and value[0, 0].numel() > 1
    ]
    if not maps:
        raise ValueError(
            f"{name} has no feature map of more than one place for pictures of "
            f"{tuple(probe.shape[1:])}: use larger pictures (data.size) or name a node"
        )
    return maps[-1]
