"""Every generator of queries, and every language model that can judge; a new one is one file and one line here."""

from typing import Annotated

from pipeline.core.plugins import Registry
from pipeline.generation.generator import Generator
from pipeline.generation.language_model import LanguageModel
from pipeline.generation.openai_server import OpenAIServer
from pipeline.generation.rules import Rules
from pipeline.generation.transformers_model import TransformersModel

AnyGenerator = Annotated[OpenAIServer | TransformersModel | Rules, Registry("generator", Generator)]
AnyLanguageModel = Annotated[OpenAIServer | TransformersModel, Registry("language model", LanguageModel)]
