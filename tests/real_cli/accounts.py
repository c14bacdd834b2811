"""How each program is told that its provider is one on loopback, and given a key that is worth nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from darkfactory import Permissions

KEY = "sk-fake"
NOWHERE = "http://127.0.0.1:9"
"""A proxy that is not there."""


def account(cli: str, url: str, home: Path, key: str | None) -> dict[str, Any]:
    """The options of an agent that the program needs for it: `env`, `args` and others by their names.

    `key` is the variable that the key is in, where that is not the usual one.
    """
    match cli:
        case "claude":
            return {"env": {"ANTHROPIC_BASE_URL": url, key or "ANTHROPIC_API_KEY": KEY}}
        case "codex":
            args = ("-c", f'openai_base_url="{url}/v1"')
            return {"env": {"CODEX_API_KEY": KEY}, "args": args, "permissions": Permissions.FULL_ACCESS}
        case "gemini":
            return {"env": _gemini(url, home), "model": "gemini-2.5-flash"}
        case "qwen":
            return {"env": {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY, "OPENAI_MODEL": "fake-model"}}
        case "opencode":
            return {"env": _opencode(url), "model": "fake/fake-model"}
        case "pi":
            _pi(url, home)
            return {"env": {"FAKE_API_KEY": KEY}, "model": "fake/fake-model"}
    raise ValueError(cli)


def _gemini(url: str, home: Path) -> dict[str, str]:
    """With a provider elsewhere it takes the key only where a file says so."""
    settings = {"security": {"auth": {"selectedType": "gemini-api-key"}}, "privacy": {"usageStatisticsEnabled": False}}
    file = home / ".gemini" / "settings.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings))
    return {"GOOGLE_GEMINI_BASE_URL": url, "GEMINI_API_KEY": KEY}


def _opencode(url: str) -> dict[str, str]:
    """It asks the npm registry at each start whatever it is told, so all but loopback is made out of reach."""
    model = {"name": "Fake", "cost": {"input": 3, "output": 15}, "limit": {"context": 200_000, "output": 8_000}}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "Fake",
        "options": {"baseURL": f"{url}/v1", "apiKey": KEY},
        "models": {"fake-model": model, "some-model": model},
    }
    config = {"provider": {"fake": provider}, "share": "disabled"}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE)
    return {"OPENCODE_CONFIG_CONTENT": json.dumps(config), **proxies, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def _pi(url: str, home: Path) -> None:
    """It knows providers of one's own by a file; by another it is told not to wait long before it tries again."""
    model = {"id": "fake-model", "cost": {"input": 3, "output": 15, "cacheRead": 0, "cacheWrite": 0}}
    provider = {
        "baseUrl": f"{url}/v1",
        "api": "openai-completions",
        "apiKey": "FAKE_API_KEY",
        "models": [model, {**model, "id": "some-model"}],
    }
    place = home / ".pi" / "agent"
    place.mkdir(parents=True, exist_ok=True)
    (place / "models.json").write_text(json.dumps({"providers": {"fake": provider}}))
    (place / "settings.json").write_text(json.dumps({"retry": {"baseDelayMs": 100}}))
