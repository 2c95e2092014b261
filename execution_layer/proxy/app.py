"""The proxy over HTTP: the API's routes, and `/v1/counterfoil` for what proves its answers."""

from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from execution_layer.proxy.answering import Answering
from execution_layer.proxy.api_errors import answer_error
from execution_layer.proxy.api_keys import ApiKey, ApiKeys
from execution_layer.proxy.asking import read_chat, read_completion
from execution_layer.proxy.service import Service
from execution_layer.proxy.settings import ProxySettings
from shared.runtime.http import install_problem_handlers


def create_app(service: Service, keys: ApiKeys, settings: ProxySettings) -> Starlette:
    """Return the application. Every route but `GET /health` needs an API key."""

    def key_of(request: Request) -> ApiKey:
        return keys.of(request.headers.get("authorization"))

    async def models(request: Request) -> Response:
        key_of(request)
        found = [_model(name, root) for name, root in service.models.items()]
        return JSONResponse({"object": "list", "data": found})

    async def model(request: Request) -> Response:
        key_of(request)
        name = request.path_params["model"]
        return JSONResponse(_model(name, service.model_root(name)))

    async def receipt(request: Request) -> Response:
        key = key_of(request)
        found = await service.receipt(key, request.path_params["entry"])
        return JSONResponse(found, headers={"cache-control": "no-store"})

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    answering = partial(Answering, service, keys, max_bytes=settings.max_body_bytes)
    chat = answering(partial(read_chat, default_tokens=settings.default_max_tokens))
    app = Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", answering(read_completion), methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{model:path}", model),
            Route("/v1/counterfoil/receipts/{entry}", receipt),
            Route("/health", health),
        ]
    )
    install_problem_handlers(app, answer_error)
    return app


def _model(name: str, root: str) -> dict[str, Any]:
    told = {"id": name, "object": "model", "created": 0, "owned_by": "counterfoil"}
    return {**told, "counterfoil": {"model_root": root}}
