"""`hugind serve`: every model of the home, loaded when somebody asks for it."""

from __future__ import annotations

from hugind.cli.server import start_wanted
from hugind.cli.start_options import AsChild, Binary, Check, Detach, Host, MaxResident, ModelTtl, Port, Wanted, read_ttl

VARIABLES = """\b
Environment:
  OLLAMA_HOST               address to listen on, as 0.0.0.0 or 0.0.0.0:11434
  OLLAMA_LOCAL_PORT         port to listen on
  OLLAMA_KEEP_ALIVE         idle time until a model is unloaded: 15m, 900, -1
  OLLAMA_MAX_LOADED_MODELS  so many loaded at the same time; 0: what fits
  OLLAMA_ORIGINS            web pages that may ask, with commas between
  LLAMA_API_KEY             a key that opens everything but the admin API
  LLAMA_PROXY_ENABLED       1: nobody is served without a key
  LLAMA_SERVER_HOST, LLAMA_SERVER_PORT, LLAMA_PROXY_HOST, LLAMA_PROXY_PORT,
  LLAMA_PROXY_RATE_LIMIT, LLAMA_PROXY_RATE_WINDOW_SECONDS
  DATABASE_URL, POSTGRES_AUTH_*  users and usage in PostgreSQL
  HF_TOKEN, HF_ENDPOINT     where `hugind pull` fetches from, and as whom
  HUGIND_HOME               configs, models and everything else (~/.hugind)
\b
For example:
  hugind serve --host 0.0.0.0 --max-resident-models 4 --model-ttl 15m
"""


def serve(
    host: Host = None,
    port: Port = None,
    max_resident_models: MaxResident = None,
    model_ttl: ModelTtl = None,
    binary: Binary = None,
    detach: Detach = False,
    check: Check = False,
    is_child: AsChild = False,
) -> None:
    """Serve all models, each loaded when asked for.

    Every config of the home and every model of its library, on Ollama's port, 11434, for clients of Ollama, OpenAI and
    Anthropic alike. A model that nobody uses is unloaded after five minutes, or when another needs its room; its
    conversations are kept. Ctrl-C stops it.
    """
    wanted = Wanted(
        is_on_demand=True,
        host=host,
        port=port,
        binary=binary,
        max_resident=max_resident_models,
        model_ttl_s=read_ttl(model_ttl),
    )
    start_wanted(wanted, detach=detach, check=check, is_child=is_child)
