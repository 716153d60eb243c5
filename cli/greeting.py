"""What is said when a gateway runs: where, what it serves, and what to do next."""

from __future__ import annotations

from collections.abc import Collection

from hugind.cli import output
from hugind.supervisor.run_folder import GatewayRecord

ON_DEMAND_COMMAND = "serve"


def is_on_demand(record: GatewayRecord) -> bool:
    """Whether it is a `hugind serve`."""
    return record.argv[:1] == (ON_DEMAND_COMMAND,)


def greet(record: GatewayRecord) -> None:
    """A gateway that was started in the background."""
    what = "" if is_on_demand(record) else f", serving {', '.join(record.configs)}"
    output.say(f"hugind runs at {record.url} (pid {record.process.pid}){what}")
    if is_on_demand(record):
        say_what_next(record.url, record.configs)
    else:
        output.say(f"  chat      {record.url}/v1/chat/completions")
        output.say(f"  models    {record.url}/v1/models")
        output.say(f"  health    {record.url}/health")
    output.say(f"  log       {record.log}")


def say_what_next(url: str, names: Collection[str]) -> None:
    """What to do with a gateway that loads models when somebody asks for them; it may have none yet."""
    if names:
        output.say(f"loads what is asked for: {', '.join(names)}")
    else:
        output.say("there are no models yet. Next, from another terminal:")
        output.say("  hugind pull USER/REPO     fetch one from the Hugging Face Hub")
        output.say("  hugind config demo        or take the demo, which answers with noise")
    output.say("then point clients at it:" if not names else "point clients at it:")
    output.say(f"  Ollama    OLLAMA_HOST={url}")
    output.say(f"  OpenAI    OPENAI_BASE_URL={url}/v1")
    output.say(f"  Anthropic ANTHROPIC_BASE_URL={url}")
