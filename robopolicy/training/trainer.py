"""The one training loop.

Every random number of a step is a pure function of (seed, stage, step, micro-batch, process): five steps, a checkpoint,
a fresh process and five more steps give the bits of ten steps. The global batch does not depend on the number of
processes or on accumulation::

    order of the epoch --> step k: [B] --reshape--> [accumulate, processes, micro-batch]
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from robopolicy import checkpoint
from robopolicy.errors import ConfigError, explain
from robopolicy.policies.loading import load_weights
from robopolicy.schema import to_dict
from robopolicy.seeding import generator
from robopolicy.training.ema import Ema
from robopolicy.training.interrupt import Interruption, TrainingInterrupted
from robopolicy.training.log import RunLog
from robopolicy.training.not_finite import gradient_norm, inspect_batch, not_finite_error, not_finite_weights
from robopolicy.training.optim import learning_rate, load_optimizer, make_optimizer, optimizer_tensors
from robopolicy.training.order import step_indices
from robopolicy.training.recipe import Recipe, Stage
from robopolicy.training.stage_context import StageContext, micro_batch
from robopolicy.types import Batch, Losses

__all__ = ["Trainer"]

ORDER_AHEAD = 500
"""Steps whose order is laid out at once: bounds memory, and is long enough to keep loader processes busy."""


class _LossModule(nn.Module):
    """DistributedDataParallel hooks ``forward``; a policy's training entry is ``loss``."""

    def __init__(self, policy: Any):
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch, rng: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        losses: Losses = self.policy.loss(batch, rng=rng)
        return losses.total, losses.parts


class Trainer:
    """Trains one policy through one stage.

    Args:
        policy: A :class:`~robopolicy.protocols.TrainablePolicy` that is an ``nn.Module``, on the accelerator's device.
            If it has a method ``after_step``, that is called after every optimiser step.
        stage: Budget, batch, optimiser.
        recipe: What all stages share.
        context: See :class:`StageContext`.
        accelerator: Devices, precision, processes.
        log: See :class:`~robopolicy.training.log.RunLog`.
        interruption: Entered by the caller; asked after every step.

    Attributes:
        check_at_once: Look at loss and gradient before every update. Elsewhere than on a CPU that would wait for the
            device at every step, so they are looked at when a line is logged, and before anything is written.
    """

    def __init__(
        self,
        policy: Any,
        stage: Stage,
        recipe: Recipe,
        context: StageContext,
        accelerator: Accelerator,
        log: RunLog,
        interruption: Interruption,
    ):
        self.policy, self.stage, self.recipe, self.context = policy, stage, recipe, context
        self.accelerator, self.log, self.interruption = accelerator, log, interruption
        self.step = 0
        self.best_validation = math.inf
        self.last: dict[str, float] = {}
        self.seconds = {"wall_s": 0.0, "cpu_s": 0.0, "events_s": 0.0}  # events: validation, checkpoints
        self.optimizer = make_optimizer(policy, stage.optimizer)
        self.ema = Ema(policy, stage.ema)
        self.after_step = getattr(policy, "after_step", None)
        self.module, self.stepper = accelerator.prepare(_LossModule(policy), self.optimizer)
        self.micro = micro_batch(stage, accelerator.num_processes)
        self.check_at_once = accelerator.device.type == "cpu"

    def fit(self) -> None:
        """Run from :attr:`step` to the stage's budget.

        Raises:
            NonFiniteError: loss, gradient or weights became NaN or infinite; what is on disk is from before.
            TrainingInterrupted: a signal came; the checkpoint is written.
        """
        stage, name = self.stage, self.context.name
        self.log.begin(name, self.step, stage.steps)
        mark, clock, cpu = self.step, time.monotonic(), time.process_time()
        batches = self.batches()
        recent: list[Tensor] = []
        while self.step < stage.steps:
            recent.append(self.advance(batches))
            self.log.advance(self.step)
            logged, due = self.step % self.recipe.log_every == 0 or self.step == stage.steps, self._due()
            if (logged or due) and not self.check_at_once:
                self._require_finite(torch.stack(recent), self.step - len(recent))
            if logged:
                elapsed = max(time.monotonic() - clock, 1e-9)
                rate = (self.step - mark) * stage.batch_size / elapsed
                self.last |= {"loss": float(torch.stack(recent)[:, 0].double().mean()), "samples_per_s": rate}
                values = {**self.last, "lr": self._rate()}
                self.log.write(name, self.step, values, f"loss {self.last['loss']:.4f}  {rate:.0f} samples/s")
                recent.clear()
            if due:
                events = time.monotonic()
                self.seconds["wall_s"] += events - clock
                self.seconds["cpu_s"] += time.process_time() - cpu
                self._events()
                mark, clock, cpu = self.step, time.monotonic(), time.process_time()
                self.seconds["events_s"] += clock - events

    def advance(self, batches: Iterator[Batch]) -> Tensor:
        """One optimiser step on the next of :meth:`batches`; returns f32 [2]: its loss and gradient norm.

        Raises:
            NonFiniteError: one of them is not finite; the weights are as before the step.
        """
        told = self._step(batches)
        self.step += 1
        return told

    def _due(self) -> bool:
        """Whether something besides training has to happen after this step."""
        validation = self.stage.validation
        periods = (self.stage.checkpoint_every, validation.every, validation.rollout_every)
        return self._stopping() or self.step == self.stage.steps or any(p and self.step % p == 0 for p in periods)

    def _events(self) -> None:
        validation, end = self.stage.validation, self.step == self.stage.steps
        stop = self._stopping()
        improved = False
        if not stop or end:
            if validation.every and (self.step % validation.every == 0 or end):
                improved = self.validate()
            if validation.rollout_every and self.step % validation.rollout_every == 0:
                self._rollout()
        if stop or end or improved or self.step % self.stage.checkpoint_every == 0:
            if not_finite_weights(self.policy):  # the last update did it; a checkpoint must not hold them
                self._refuse(
                    f"weights of stage '{self.context.name}' are not finite after step {self.step - 1}", self.step - 1
                )
            path = self.save()
            if improved and self.accelerator.is_main_process:
                checkpoint.mark_best(self.context.run_dir, path, validation_loss=self.best_validation)
            if self.accelerator.is_main_process:
                checkpoint.prune(self.context.run_dir, self.recipe.keep_last)
        self.accelerator.wait_for_everyone()
        if stop and not end:
            message = (
                f"stopped at step {self.step} of {self.stage.steps}, checkpoint written; "
                f"resume with: robopolicy train --resume {self.context.run_dir}"
            )
            self.log.say(message)
            raise TrainingInterrupted(message)

    def _stopping(self) -> bool:
        requested = self.interruption.requested
        if self.accelerator.num_processes > 1:
            flag = torch.tensor(float(requested), device=self.accelerator.device)
            return bool(self.accelerator.reduce(flag, "sum").item() > 0)  # type: ignore[union-attr]
        return requested

    def _rate(self) -> float:
        return learning_rate(self.stage.optimizer, self.step, self.stage.steps)

    def _step(self, batches: Iterator[Batch]) -> Tensor:
        """One optimiser step; returns f32 [2]: the loss, averaged over micro-batches and processes, and the norm of
        the gradient before it was clipped."""
        accumulate, accelerator = self.stage.accumulate, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.policy.train()
        total = torch.zeros((), device=accelerator.device)
        for part in range(accumulate):
            batch = next(batches).to(accelerator.device)
            rng = self._generator("noise", self.step, part, accelerator.process_index)
            last = part == accumulate - 1
            with nullcontext() if last else accelerator.no_sync(self.module):
                loss, _ = self.module(batch, rng)
                accelerator.backward(loss / accumulate)
            total += loss.detach().float() / accumulate
        if accelerator.num_processes > 1:
            total = accelerator.reduce(total, "mean")  # type: ignore[assignment]
        if self.stage.optimizer.clip_norm:
            norm = accelerator.clip_grad_norm_(self.policy.parameters(), self.stage.optimizer.clip_norm)
        else:
            norm = gradient_norm(self.policy)
        if accelerator.scaler is not None or norm is None:
            norm = torch.zeros_like(total)  # of fp16: the scaler skips steps whose gradient overflows
        told = torch.stack([total, norm.detach().float().to(total.device)])
        if self.check_at_once:
            self._require_finite(told[None], self.step)
        self.stepper.step()
        self.stepper.zero_grad()
        self.ema.step()
        if self.after_step is not None:
            self.after_step()
        return told

    def _require_finite(self, told: Tensor, first: int) -> None:
        """Pass silently, or name the batch of the first step at fault.

        Args:
            told: f32 [n, 2] loss and gradient norm of consecutive steps.
            first: The step of row 0.

        Raises:
            NonFiniteError: one of them is not finite.
        """
        if torch.isfinite(told).all():
            return
        row = int(torch.nonzero(~torch.isfinite(told).all(dim=1))[0])
        step, (loss, norm) = first + row, told[row].tolist()
        what = f"the loss of stage '{self.context.name}' is {loss}"
        if math.isfinite(loss):
            what = f"the norm of the gradient of stage '{self.context.name}' is {norm}"
        self._refuse(f"{what} at step {step}", step)

    def _refuse(self, what: str, step: int) -> NoReturn:
        process = self.accelerator.process_index
        parts = self._order(step, 1)[0, :, process]
        found = inspect_batch(
            self.policy,
            self.context.train,
            parts,
            lambda part: self._generator("noise", step, part, process),
            self.accelerator.device,
        )
        main = self.accelerator.is_main_process
        raise not_finite_error(what, found, self.context.run_dir, self.stage.accumulate, main)

    def batches(self) -> Iterator[Batch]:
        """This process's micro-batches from the current step to the end."""
        at = self.step
        while at < self.stage.steps:
            count = min(ORDER_AHEAD, self.stage.steps - at)
            mine = self._order(at, count)[:, :, self.accelerator.process_index]
            yield from self.context.train.batches(mine.reshape(-1))
            at += count

    def _order(self, first: int, count: int) -> np.ndarray:
        """Windows of the steps from ``first`` on: int64 [count, accumulate, processes, micro]."""
        recipe, stage, context = self.recipe, self.stage, self.context
        if context.order is not None:
            order = context.order(recipe.seed, first, count, stage.batch_size)
        else:
            order = step_indices(context.train_size, recipe.seed, first, count, stage.batch_size)
        return order.reshape(count, stage.accumulate, self.accelerator.num_processes, self.micro)

    def _generator(self, *words: int | str) -> torch.Generator:
        seed = int(generator(self.context.name, self.recipe.seed, *words).integers(2**63))
        torch.manual_seed(seed)  # for whatever draws from the global generator, such as dropout
        return torch.Generator(self.accelerator.device).manual_seed(seed)

    def validate(self) -> bool:
        """Loss of the averaged weights on held-out windows with the same noise every time; True if it is the best."""
        source, indices = self.context.validation, self.context.validation_indices
        if source is None or not len(indices):
            return False
        values: list[float] = []
        grouped: dict[str, list[float]] = {}
        with self.ema.applied(), torch.no_grad():
            for number, batch in enumerate(source.batches(indices)):
                rng = self._generator("validation", number)
                losses: Losses = self.policy.loss(batch.to(self.accelerator.device), rng=rng)
                values.append(float(losses.total))
                for part, value in losses.parts.items():
                    if "/" in part:  # of some of the samples only, such as those of one robot
                        grouped.setdefault(f"validation_loss/{part.partition('/')[2]}", []).append(float(value))
        loss = float(np.mean(values))
        if not math.isfinite(loss):
            self._refuse_validation(values)
        found = {"validation_loss": loss, **{name: float(np.mean(each)) for name, each in grouped.items()}}
        self.last |= found
        self.log.write(self.context.name, self.step, found, f"validation loss {loss:.4f}")
        improved = loss < self.best_validation
        self.best_validation = min(loss, self.best_validation)
        return improved

    def _refuse_validation(self, values: list[float]) -> NoReturn:
        """The averaged weights give no finite loss on some of the held-out windows."""
        number = next(i for i, value in enumerate(values) if not math.isfinite(value))
        indices = self.context.validation_indices
        size = -(-len(indices) // len(values))
        with self.ema.applied():
            found = inspect_batch(
                self.policy,
                self.context.validation,
                indices[number * size : (number + 1) * size][None],
                lambda part: self._generator("validation", number),
                self.accelerator.device,
            )
        what = f"the validation loss of stage '{self.context.name}' is {values[number]} at step {self.step}"
        what += f", held-out batch {number}"
        raise not_finite_error(what, found, self.context.run_dir, 1, self.accelerator.is_main_process)

    def _rollout(self) -> None:
        if self.context.rollout is None or not self.accelerator.is_main_process:
            return
        with self.ema.applied() as policy:
            values = dict(self.context.rollout(policy, self.step))  # type: ignore[arg-type]
        self.last |= values
        shown = "  ".join(f"{k} {v:.3f}" for k, v in values.items())
        self.log.write(self.context.name, self.step, values, f"rollout {shown}")

    def save(self) -> Path:
        """Write the checkpoint of this step (first process only).

        Raises:
            StorageError: the disk refuses; earlier checkpoints are intact.
        """
        context = self.context
        path = checkpoint.step_folder(context.run_dir, context.index, context.name, self.step)
        if self.accelerator.is_main_process:
            checkpoint.save(
                path,
                tensors={
                    "weights": self.policy.state_dict(),
                    "ema": self.ema.tensors(),
                    "optimizer": optimizer_tensors(self.policy, self.optimizer),
                },
                documents={**context.documents, "policy": self.policy.description(), "trainer": self._state()},
                header={"stage": context.name, "step": self.step},
            )
        return path

    def _state(self) -> dict[str, Any]:
        numpy_state = np.random.get_state(legacy=False)
        groups = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        scaler = self.accelerator.scaler
        return {
            "stage": self.context.name,
            "stage_index": self.context.index,
            "step": self.step,
            "order": {
                "seed": self.recipe.seed,
                "samples": self.step * self.stage.batch_size,
                "train_size": self.context.train_size,
            },
            "optimizer": {"groups": to_dict(groups), **to_dict(self.stage.optimizer), "next_lr": self._rate()},
            "scaler": None if scaler is None else scaler.state_dict(),
            "ema": self.ema.state(),
            "rng": {
                "torch": torch.get_rng_state().numpy().tobytes().hex(),
                "numpy": {
                    "kind": str(numpy_state["bit_generator"]),
                    "key": np.asarray(numpy_state["state"]["key"]).tobytes().hex(),
                    "position": int(numpy_state["state"]["pos"]),
                },
                "note": "for the record: every draw of a step is a function of (seed, stage, step, part, process)",
            },
            "best_validation": None if math.isinf(self.best_validation) else self.best_validation,
            "last": self.last,
            "seconds": self.seconds,
        }

    def restore(self, stored: checkpoint.Checkpoint) -> None:
        """Continue from a checkpoint of this stage.

        Raises:
            CheckpointError: its tensors do not fit.
            ConfigError: the data have another number of windows than when it was written.
        """
        state = stored.document("trainer")
        if state["order"]["train_size"] != self.context.train_size:
            raise ConfigError(
                explain(
                    "the data changed since the checkpoint: another number of training windows",
                    given=self.context.train_size,
                    allowed=state["order"]["train_size"],
                    mend="resume on the same store and split, or start a new run",
                )
            )
        load_weights(self.policy, stored.tensors("weights"), stored.path)
        load_optimizer(self.policy, self.optimizer, stored.tensors("optimizer"))
        self.ema.load(stored.tensors("ema"), state["ema"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])
        self.best_validation = math.inf if state["best_validation"] is None else float(state["best_validation"])
        self.last, self.seconds = dict(state["last"]), {**self.seconds, **state["seconds"]}
