"""The stages of a linearisation, each kept in a directory when it is finished, so that an interrupted one goes on."""

import itertools
import shutil
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from effopd.files import finite_or_none, replaced
from effopd.linearized import covariance, measures
from effopd.linearized.lanczos import Step
from effopd.linearized.loss import mean_loss
from effopd.linearized.root import GaussNewtonRoot, Vector
from effopd.linearized.spectrum import Spectrum, find_spectrum, predicted_displacement
from effopd.run_directory import FinishedPieces

_PROGRESS, _STEPS = "progress.jsonl", "lanczos"
Json = dict[str, Any]


class Stages:
    """Everything that is measured at contexts that are there.

    Finished stages are lines of `progress.jsonl`, and each product of the Lanczos method is a file in `lanczos/`.

    Args:
        out: Directory of this linearisation and of no other.
        root: The model and its contexts.
        teacher_TV: Logits of the teacher at the completion tokens, divided by the temperature, [T, V].
        num_steps: Number of products with A in the Lanczos method.
        seed: Random seed of its start vector and of bootstrap intervals.
        fresh: The model at other contexts, with the teacher's logits there, for shares of b without noise; or None.
        note: Function that is told of progress.
    """

    def __init__(
        self,
        out: Path,
        root: GaussNewtonRoot,
        teacher_TV: Tensor,
        *,
        num_steps: int,
        seed: int,
        fresh: tuple[GaussNewtonRoot, Tensor] | None,
        note: Callable[[str], None],
    ) -> None:
        self.out, self.root, self.teacher_TV, self.note = out, root, teacher_TV, note
        self._fresh = fresh
        self._num_steps, self._seed = num_steps, seed
        self._pieces = FinishedPieces(out / _PROGRESS)
        self.residual = root.residual(teacher_TV)
        self.b: Vector = root.pull(self.residual)
        self._spectrum: Spectrum | None = None

    def measure(self, rewards: list[float] | None, trained: Mapping[str, Callable[[], Mapping[str, Tensor]]]) -> Json:
        """Do the stages that are left, and return everything that was measured.

        Args:
            rewards: Reward of each completion; None leaves RL out.
            trained: Functions, by name, that return the parameters of models that were trained from this one.
        """
        root, teacher_TV = self.root, self.teacher_TV
        found: Json = {
            "loss": mean_loss(root, teacher_TV),
            **measures.driving_measures(self.b),
            **self._stage("spreads", lambda: self._spreads(rewards)),
            **self._stage("spectrum", lambda: measures.spectrum_measures(self.spectrum)),
            "step_size_along_driving": measures.best_along_driving(root, self.b),
            "unbiased": None,
        }
        if self._fresh:
            of_fresh = partial(measures.unbiased_measures, fresh=self._fresh[0], teacher_TV=self._fresh[1])
            found["unbiased"] = self._stage("unbiased", lambda: of_fresh(root, self.spectrum))
        found["path"] = self._stage("path", lambda: measures.path_measures(root, self.spectrum, teacher_TV))
        eta, steps = found["path"]["step_size"], max(measures.PATH_STEPS)
        first = {name: found["step_size_along_driving"] * each for name, each in self.b.items()}
        found["lines"] = {
            "gradient": self._line("gradient", lambda: first),
            "path": self._line("path", lambda: predicted_displacement(root, self.spectrum, eta, steps)),
        }
        found["updates"] = {}
        for name, parameters in trained.items():
            update = cache(partial(measures.update_of, root, parameters))
            found["lines"][f"update:{name}"] = self._line(f"update:{name}", update)
            found["updates"][name] = self._stage(f"measures:{name}", partial(self._held_against, update))
        return found

    @property
    def spectrum(self) -> Spectrum:
        """Eigenpairs of A, from the steps that are there and those that are left."""
        if self._spectrum is None:
            folder = self.out / _STEPS
            folder.mkdir(exist_ok=True)
            done = sorted(folder.glob("*.safetensors"))
            size = self.residual.numel() * self.residual.element_size() * self._num_steps / 2**30
            self.note(f"Lanczos method: {len(done)} of {self._num_steps} products done; up to {size:.1f} GiB.")

            numbers = itertools.count(len(done))

            def keep(step: Step) -> None:
                with replaced(folder / f"{next(numbers):05}.safetensors") as temporary:
                    save_file(
                        {name: each.cpu() for name, each in step._asdict().items() if each is not None}, temporary
                    )

            self._spectrum = find_spectrum(
                self.root, self.residual, self._num_steps, self._seed, done=map(_read_step, done), on_step=keep
            )
        return self._spectrum

    def _stage(self, name: str, measure: Callable[[], Json]) -> Json:
        for row in self._pieces.rows:
            if row["stage"] == name:
                return dict(row["result"])
        result = measure()
        self._pieces.add({"stage": name, "result": result})
        self.note(f"{name}: done")
        return result

    def _line(self, name: str, direction: Callable[[], Vector]) -> Json:
        return self._stage(
            f"line:{name}", lambda: measures.line_measures(self.root, self.teacher_TV, self.b, direction())
        )

    def _held_against(self, update: Callable[[], Vector]) -> Json:
        return measures.update_measures(self.root, self.spectrum, self.b, update())

    def _spreads(self, rewards: list[float] | None) -> Json:
        root, teacher_TV = self.root, self.teacher_TV
        exact = covariance.distillation(teacher_TV)
        spreads = {
            "trace_opd": covariance.gradient_spread(root, exact, {name: -each for name, each in self.b.items()}),
            "trace_opd_sampled": covariance.gradient_spread(root, covariance.sampled_distillation(root, teacher_TV)),
        }
        found: Json = {"trace_rl": None, "mean_reward": None, "cosine_opd_rl": None, "cosine_halves": None}
        if rewards is not None:
            by_reward = covariance.reinforcement(root, rewards)
            spreads["trace_rl"] = covariance.gradient_spread(root, by_reward)
            found["mean_reward"] = sum(rewards) / len(rewards)
            found["cosine_opd_rl"] = finite_or_none(
                covariance.cosine(spreads["trace_opd"].mean, spreads["trace_rl"].mean)
            )
            found["cosine_halves"] = {
                name: finite_or_none(covariance.cosine(*covariance.half_means(root, derivative)))
                for name, derivative in (("opd", exact), ("rl", by_reward))
            }
        for name, spread in spreads.items():
            found[name] = measures.spread_measures(spread, self._seed)
        return found


def clean_up(out: Path) -> None:
    """Remove from a directory what only an interrupted linearisation needs."""
    shutil.rmtree(out / _STEPS, ignore_errors=True)


def _read_step(path: Path) -> Step:
    found = load_file(path)
    return Step(found["column"], found.get("vector"))
