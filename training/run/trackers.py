"""Every tracker by the name that a recipe gives it; a new one is a file of this folder and one line of `AnyTracker`."""

from typing import Annotated

from pipeline.core.plugins import Registry
from training.run.mlflow import MLflow
from training.run.tensorboard import TensorBoard
from training.run.tracker import Tracker
from training.run.wandb import WeightsAndBiases

AnyTracker = Annotated[TensorBoard | MLflow | WeightsAndBiases, Registry("tracker", Tracker)]
