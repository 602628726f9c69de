"""ferkit with torch and numpy alone. Runs under unittest: nothing else is installed where it matters."""

import importlib
import importlib.abc
import pkgutil
import subprocess
import sys
import unittest

EXTRAS = [
    "triton",
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "jsonargparse",
    "matplotlib",
    "PIL",
    "pandas",
    "pyarrow",
    "sklearn",
    "faiss",
    "lmdb",
    "scipy",
    "safetensors",
    "yaml",
]
NEED_EXTRAS = ("recipes", "metrics", "reports", "tasks")


class Blocker(importlib.abc.MetaPathFinder):
    """Makes the extras unimportable, should they be there."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])
        return None


BLOCK = f"""
import sys; sys.path.insert(0, {str(__file__.rpartition("/")[0] or ".")!r})
import test_minimal; sys.meta_path.insert(0, test_minimal.Blocker())
"""


def run(code):
    """A fresh interpreter without the extras."""
    return subprocess.run([sys.executable, "-c", BLOCK + code], capture_output=True, text=True, timeout=300)


class Minimal(unittest.TestCase):
    def setUp(self):
        sys.meta_path.insert(0, Blocker())
        self.addCleanup(sys.meta_path.pop, 0)

    def test_public_modules_import(self):
        import ferkit

        names = [module.name for module in pkgutil.iter_modules(ferkit.__path__)]
        self.assertIn("losses", names)
        for name in names:
            if name not in (*NEED_EXTRAS, "__main__") and not name.startswith("_C"):
                module = importlib.import_module(f"ferkit.{name}")
                if name not in ("blocks", "data"):  # their lazy names may belong to an extra
                    for public in getattr(module, "__all__", ()):
                        getattr(module, public)

    def test_what_needs_an_extra_says_which(self):
        for name, attribute in (
            ("recipes", "DMUE"),
            ("metrics", "TotalVariation"),
            ("reports", "plot_curves"),
            ("tasks", "train"),
            ("tasks", "Predictor"),
        ):
            with self.subTest(name), self.assertRaisesRegex(ImportError, r'pip install "ferkit\[train\]"'):
                getattr(importlib.import_module(f"ferkit.{name}"), attribute)

    def test_an_lmdb_says_what_it_needs(self):
        from pathlib import Path
        from tempfile import TemporaryDirectory

        from ferkit.data.lmdb_images import has_key

        with TemporaryDirectory() as folder, self.assertRaisesRegex(ImportError, r'pip install "ferkit\[lmdb\]"'):
            has_key(Path(folder), "train_1.jpg")

    def test_a_torchvision_backbone_says_what_it_needs(self):
        from ferkit.blocks import BranchedBackbone

        with self.assertRaisesRegex(ImportError, r"ferkit\[train\]"):
            BranchedBackbone("resnet18", 7)

    def test_losses_run_and_agree_with_their_formula(self):
        import torch

        from ferkit.losses import CCCLoss, MSPLoss, NeighborGuidanceLoss, WeightedLogitCrossEntropy

        generator = torch.Generator().manual_seed(0)
        target = torch.randn(12, 5, generator=generator, dtype=torch.float64, requires_grad=True)
        auxiliary = torch.randn(3, 12, 5, generator=generator, dtype=torch.float64)
        labels = torch.arange(12) % 3
        value = MSPLoss(num_classes=3)(target, auxiliary, labels)
        value.backward()
        rows = lambda f: torch.nn.functional.normalize(f @ f.T)  # noqa: E731
        expected = 0.0
        for j in range(3):
            keep = (labels != j).double()
            difference = (keep[:, None] * keep) * (rows(target) - rows(auxiliary[j]))
            expected = expected + (difference**2).sum() / keep.sum() ** 2 / 3
        (gradient,) = torch.autograd.grad(expected, target)
        self.assertAlmostEqual(value.item(), expected.item(), places=12)
        self.assertTrue(torch.allclose(target.grad, gradient, atol=1e-12))
        logits = torch.randn(12, 3, generator=generator)
        confidence = torch.rand(12, generator=generator)
        self.assertAlmostEqual(
            WeightedLogitCrossEntropy()(logits, confidence, labels).item(),
            torch.nn.functional.cross_entropy(confidence[:, None] * logits, labels).item(),
            places=5,
        )
        neighbors, affinity = torch.randn(12, 4, 3, generator=generator), torch.rand(12, 4, generator=generator)
        share = neighbors.softmax(-1)
        divergence = (share * (share.log() - logits.log_softmax(-1)[:, None])).sum(-1)
        guidance = NeighborGuidanceLoss()(logits, neighbors, affinity)
        self.assertAlmostEqual(guidance.item(), (affinity * divergence).sum(1).mean().item(), places=5)
        x, y = (torch.randn(12, 2, generator=generator) for _ in range(2))
        bottom = x.var(0, correction=0) + y.var(0, correction=0) + (x.mean(0) - y.mean(0)) ** 2
        ccc = 2 * ((x - x.mean(0)) * (y - y.mean(0))).mean(0) / bottom
        self.assertAlmostEqual(CCCLoss()(x, y).item(), 1 - ccc.mean().item(), places=5)

    def test_small_backbone_trains_a_step(self):
        import torch

        from ferkit.blocks import BranchedBackbone
        from ferkit.functional import auxiliary_cross_entropy

        model = BranchedBackbone("small", 3)
        auxiliary_cross_entropy(model(torch.zeros(6, 3, 32, 32)).auxiliary_logits, torch.arange(6) % 3).backward()
        self.assertIsNotNone(model.trunk.conv1.weight.grad)

    def test_a_step_of_the_hinge_game(self):
        import torch

        from ferkit.blocks import DeconvDecoder, MultiStreamDiscriminator, VGGEncoder
        from ferkit.losses import HingeDiscriminatorLoss, HingeGeneratorLoss

        encoder, decoder = VGGEncoder(32, 7, 20, width=0.125), DeconvDecoder(32, 27, width=0.125)
        critic = MultiStreamDiscriminator(32, 20, {"expression": 7}, width=0.125, explicit=True)
        images, noise, labels = torch.zeros(4, 3, 32, 32), torch.randn(4, 20), torch.eye(7)[:4]
        output = encoder(images)
        real = {"image": images, "latent": encoder.sample(output, noise), "expression": output.labels}
        fake = {"image": decoder(torch.cat([noise, labels], 1)), "latent": noise, "expression": labels}
        scores = critic(real), critic(fake)
        self.assertEqual(scores[0].shape, (4, 4))
        e, d = (value.detach().clamp(-1, 1) for value in scores)
        self.assertAlmostEqual(HingeDiscriminatorLoss()(e, d).item(), (2 - e.mean() + d.mean()).item(), places=5)
        HingeGeneratorLoss()(*scores).backward()
        for network in (encoder, decoder):
            self.assertTrue(all(parameter.grad is not None for parameter in network.parameters()))

    def test_info(self):
        result = run("from ferkit.cli import main; sys.exit(main(['info']))")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("class_similarity on cpu", result.stdout)

    def test_command_without_extras_is_one_line(self):
        result = run("from ferkit.cli import main; sys.exit(main(['demo']))")
        self.assertEqual(result.returncode, 2)
        self.assertRegex(result.stderr, r'^ferkit: error: .*pip install "ferkit\[train\]"\n$')

    def test_import_touches_nothing_else(self):
        code = (
            "import ferkit, ferkit.losses, torch\n"
            "assert not torch.cuda.is_initialized()\n"
            "print([name for name in sys.modules if name.split('.')[0] in test_minimal.EXTRAS])"
        )
        result = run(code)
        self.assertEqual(result.stdout.strip(), "[]", result.stderr)


if __name__ == "__main__":
    unittest.main()
