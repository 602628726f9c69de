"""noisyFER's networks and one iteration as a training script writes them down: plain modules, eager, layer by layer.

Nothing of ferkit is used but the width of its networks, so that both have the same parameters. The order of the
layers is ferkit's too: ``copy_weights`` goes by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ferkit.blocks._width import scaled

__all__ = ["Decoder", "Discriminator", "Encoder", "Iteration", "copy_weights"]

LATENT, EPS = 100, 1e-12
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)


def sn(layer: nn.Module) -> nn.Module:
    return spectral_norm(layer, eps=EPS)


class Encoder(nn.Module):
    """VGG-16 without batch normalisation, two fully connected layers, three heads."""

    def __init__(self, outputs: int, width: float = 1.0, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for count, stage in ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, scaled(stage, width), 3, padding=1), nn.ReLU(inplace=True)]
                channels = scaled(stage, width)
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        hidden = scaled(512, width)
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, hidden)
        self.labels, self.mean, self.logvar = (nn.Linear(hidden, size) for size in (outputs, LATENT, LATENT))
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.features(images).flatten(1)
        h = self.dropout(F.relu(self.fc1(h)))
        h = self.dropout(F.relu(self.fc2(h)))
        return self.labels(h), self.mean(h), self.logvar(h)


class Decoder(nn.Module):
    def __init__(self, inputs: int, width: float = 1.0) -> None:
        super().__init__()
        channels = scaled(512, width)
        self.fc = sn(nn.Linear(inputs, channels))
        layers: list[nn.Module] = []
        for out in (512, 512, 256, 128):
            layers += [
                sn(nn.ConvTranspose2d(channels, scaled(out, width), 4, 2, 1)),
                nn.BatchNorm2d(scaled(out, width)),
            ]
            layers.append(nn.ReLU(inplace=True))
            channels = scaled(out, width)
        self.deconvs = nn.Sequential(*layers, sn(nn.ConvTranspose2d(channels, 3, 4, 2, 1)), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        images: Tensor = self.deconvs(F.relu(self.fc(z))[:, :, None, None])
        return images


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, preactivation: bool = True, down: bool = True) -> None:
        super().__init__()
        self.conv1, self.conv2 = sn(nn.Conv2d(inputs, outputs, 3, padding=1)), sn(nn.Conv2d(outputs, outputs, 3, 1, 1))
        self.shortcut = sn(nn.Conv2d(inputs, outputs, 1)) if inputs != outputs or down else None
        self.preactivation, self.down = preactivation, down

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(x) if self.preactivation else x
        h = self.conv2(F.relu(self.conv1(h)))
        x = x if self.shortcut is None else self.shortcut(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(x, 2) if self.down else h + x


class Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = (
            (channels, channels // 8),
            (channels, channels // 8),
            (channels, channels // 2),
            (channels // 2, channels),
        )
        self.theta, self.phi, self.g, self.o = (sn(nn.Conv2d(a, b, 1, bias=False)) for a, b in sizes)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        theta = self.theta(x).flatten(2)
        phi, g = F.max_pool2d(self.phi(x), 2).flatten(2), F.max_pool2d(self.g(x), 2).flatten(2)
        beta = torch.bmm(theta.transpose(1, 2), phi).softmax(-1)
        return x + self.gamma * self.o(torch.bmm(g, beta.transpose(1, 2)).view(n, -1, height, width))


class MLP(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.input = sn(nn.Linear(inputs, outputs))
        self.first = nn.ModuleList(sn(nn.Linear(outputs, outputs)) for _ in range(4))
        self.second = nn.ModuleList(sn(nn.Linear(outputs, outputs)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.input(x))
        total = self.second[0](F.relu(self.first[0](h)))
        for first, second in zip(self.first[1:], self.second[1:]):
            total = total + second(F.relu(first(h)))
        return total


class Discriminator(nn.Module):
    """An image stream, one of the latent code and one a label set; marginal scores, and a joint one."""

    def __init__(self, sets: Sequence[int], width: float = 1.0) -> None:
        super().__init__()
        a, b, c, d, joint = (scaled(channels, width) for channels in (64, 128, 256, 512, 1024))
        blocks = [Block(a, b), Block(b, c), Block(c, d), Block(d, d), Block(d, d, down=False)]
        self.image = nn.Sequential(Block(3, a, preactivation=False), Attention(a), *blocks)
        self.image_score = sn(nn.Linear(d, 1))
        self.streams = nn.ModuleList(nn.ModuleList([MLP(size, d), sn(nn.Linear(d, 1))]) for size in (LATENT, *sets))
        self.joint = nn.Sequential(MLP(d * (2 + len(sets)), joint), sn(nn.Linear(joint, 1)))

    def forward(self, images: Tensor, latent: Tensor, labels: Sequence[Tensor]) -> Tensor:
        features = [F.relu(self.image(images)).sum((2, 3))]
        scores = [self.image_score(features[0])]
        for (stream, score), x in zip(self.streams, (latent, *labels)):
            features.append(stream(x))
            scores.append(score(features[-1]))
        return torch.cat([*scores, self.joint(torch.cat(features, 1))], 1)


class Iteration:
    """Two discriminator steps on one batch and its fakes, then a generator step through the same forward graph."""

    def __init__(
        self, encoder: Encoder, decoder: Decoder, critic: Discriminator, sets: Sequence[int], lam: float
    ) -> None:
        self.encoder, self.decoder, self.critic, self.sets, self.lam = encoder, decoder, critic, list(sets), lam
        self.generators = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4)
        self.critics = torch.optim.Adam(critic.parameters(), lr=1e-4)

    def __call__(self, images: Tensor, targets: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The losses, for images (N, 3, H, W) in [-1, 1], targets (N, T) and noise (2, N, 100)."""
        onehot = [F.one_hot(column, size).float() for column, size in zip(targets.unbind(1), self.sets)]
        logits, mean, logvar = self.encoder(images)
        latent, labels = mean + (0.5 * logvar).exp() * noise[0], logits.split(self.sets, 1)
        fake = self.decoder(torch.cat([noise[1], *onehot], 1))
        steps = []
        for _ in range(2):
            real_scores = self.critic(images, latent.detach(), [part.detach() for part in labels])
            fake_scores = self.critic(fake.detach(), noise[1], onehot)
            loss = F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean()
            self.critics.zero_grad()
            loss.backward()
            self.critics.step()
            steps.append(loss.detach())
        game = -self.critic(fake, noise[1], onehot).mean() + self.critic(images, latent, labels).mean()
        supervised = torch.stack([F.cross_entropy(part, y) for part, y in zip(labels, targets.unbind(1))]).sum()
        self.generators.zero_grad()
        (supervised + self.lam * game).backward()
        self.generators.step()
        return {"loss": supervised.detach(), "discriminator": sum(steps) / 2, "generator": game.detach()}


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Parameters and power iterates of ferkit's network into the plain one, layer by layer in their order."""
    ours = [module for module in source.modules() if isinstance(module, LAYERS)]
    plain = [module for module in target.modules() if isinstance(module, LAYERS)]
    if len(ours) != len(plain):
        raise ValueError(f"target: expected {len(ours)} layers, got {len(plain)}")
    for a, b in zip(ours, plain):
        if hasattr(b, "weight_orig"):
            norm = a.parametrizations.weight
            b.weight_orig.copy_(norm.original)
            b.weight_u.copy_(norm[0]._u)
            b.weight_v.copy_(norm[0]._v)
        else:
            b.weight.copy_(a.weight)
        if b.bias is not None:
            b.bias.copy_(a.bias)
    gains = [[p for name, p in network.named_parameters() if name.endswith("gamma")] for network in (source, target)]
    for a, b in zip(*gains):
        b.copy_(a)
