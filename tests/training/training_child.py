"""A training process for tests: ``python training_child.py STORE OUT [steps] [accumulate]``."""

import copy
import sys
import time

from training_toy import RECIPE

from robopolicy.training.run import train
from robopolicy.training.trainer import Trainer

if __name__ == "__main__":
    store, out, steps, pause_s = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    recipe = copy.deepcopy(RECIPE)
    recipe["stages"]["policy"] |= {"steps": steps, "checkpoint_every": 2}
    step = Trainer._step

    def slow(self, batches):
        time.sleep(pause_s)
        return step(self, batches)

    Trainer._step = slow
    train(recipe, store, out)
