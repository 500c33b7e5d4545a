"""A stand-in for verl's rollout engine, in a Ray actor: it samples by transformers, and writes down what it is asked.

Like vLLM under verl, it has no weights after `sleep` until `update_weights` brings some, and refuses to sample then.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

LONGEST = 6


def digest(weights: dict[str, torch.Tensor]) -> str:
    """A name for these bits."""
    whole = hashlib.sha256()
    for name in sorted(weights):
        whole.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


class StandInServer:
    """Keeps weights, samples from them, and appends to `events.jsonl` in the folder STAND_IN_EVENTS."""

    def __init__(self, model: str) -> None:
        self.folder = Path(os.environ["STAND_IN_EVENTS"])
        self.model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
        self.weights: str | None = None
        self.asked: Counter[str] = Counter()

    def note(self, event: str, **details: Any) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": event, "weights": self.weights, **details}) + "\n")

    def load(self, weights: dict[str, torch.Tensor], global_steps: int) -> None:
        self.was_asleep, self.weights = self.weights is None, digest(weights)
        self.model.load_state_dict(weights, strict=False)
        self.global_steps = global_steps
        self.asked.clear()
        if not (kept := self.folder / f"{self.weights}.safetensors").exists():
            save_file(weights, kept)
        self.note("load", step=global_steps, was_asleep=self.was_asleep)

    def sleep(self) -> None:
        self.note("sleep")
        self.weights = None

    @torch.no_grad()
    def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], **others: Any) -> TokenOutput:
        assert self.weights is not None, "asked for samples while asleep"
        prompt = " ".join(map(str, prompt_ids))
        number = self.asked[prompt] = self.asked[prompt] + 1
        seed = int(hashlib.sha256(f"{self.weights} {prompt} {number}".encode()).hexdigest()[:12], 16)
        generator = torch.Generator().manual_seed(seed)
        ids, logprobs = list(prompt_ids), []
        while len(ids) < len(prompt_ids) + LONGEST and (len(ids) == len(prompt_ids) or ids[-1] != 1):
            scores = self.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            ids.append(int(torch.multinomial(scores.exp(), 1, generator=generator)))
            logprobs.append(float(scores[ids[-1]]))
        sampling = {name: sampling_params[name] for name in ("temperature", "top_p", "top_k")}
        self.note("sample", prompt=prompt, answer=ids[len(prompt_ids) :], **sampling)
        return TokenOutput(
            token_ids=ids[len(prompt_ids) :],
            log_probs=logprobs,
            stop_reason="completed",
            extra_fields={"global_steps": self.global_steps},
        )


class StandInReplica(RolloutReplica):
    """Starts the server."""

    async def launch_servers(self) -> None:
        server = ray.remote(StandInServer).options(name="stand_in", num_cpus=0)
        self._server_handle = server.remote(self.model_config.path)
        self._server_address = "stand_in"
        self.servers = [self._server_handle]

    async def sleep(self) -> None:
        await self._server_handle.sleep.remote()


class StandInRollout(BaseRollout):
    """The part in each training process: it gathers the weights, and the first process sends them."""

    async def resume(self, tags: list[str]) -> None:
        pass

    async def release(self) -> None:
        pass

    async def update_weights(
        self, weights: Iterator[tuple[str, torch.Tensor]], global_steps: int | None = None, **others: Any
    ) -> None:
        gathered = {name: tensor.detach().clone() for name, tensor in weights}
        if torch.distributed.get_rank() == 0:
            await ray.get_actor("stand_in").load.remote(gathered, global_steps)
