"""An arm without physics whose camera sees red on the left, green above, and a blue that changes."""

import numpy as np

from robopolicy.sim.plant import KinematicPlant

__all__ = ["PicturePlant"]


class PicturePlant(KinematicPlant):
    def sense(self):
        sensed = super().sense()
        for image in sensed.image.values():
            image[...] = 20
            image[:, : image.shape[1] // 2, 0] = 220
            image[: image.shape[0] // 2, :, 1] = 220
            image[..., 2] = int(100 + 60 * np.sin(50 * self._position[0]))
        return sensed
