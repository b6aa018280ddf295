"""Every error of the tree has a status on every transport, and what is not a caller's business is not told."""

import importlib
import pkgutil

import grpc
import pytest

import service
from service import client_errors, grpc_status, http_api
from service.contract.errors import BlastwatchError, Conflict, Overloaded, StoreUnavailable


def everything() -> list[type[BlastwatchError]]:
    """All subclasses, after importing every module that could define one."""
    for module in pkgutil.walk_packages(service.__path__, "service."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: list[type[BlastwatchError]] = []
    queue: list[type[BlastwatchError]] = [BlastwatchError]
    while queue:
        kind = queue.pop()
        queue.extend(kind.__subclasses__())
        found.extend(child for child in kind.__subclasses__() if child.__module__.startswith("service."))
    return found


@pytest.mark.parametrize("kind", everything(), ids=lambda kind: kind.__name__)
def test_every_error_is_mapped(kind: type[BlastwatchError]) -> None:
    error = kind.__new__(kind)
    assert grpc_status.status_of(error) is not None, f"add {kind.__name__} to grpc_status.STATUS"
    assert http_api.status_of(error) is not None, f"add {kind.__name__} to http_api.STATUS"


def test_an_error_that_is_not_mapped_would_be_found() -> None:
    class UnmappedError(BlastwatchError):
        pass

    assert grpc_status.status_of(UnmappedError()) is None
    assert http_api.status_of(UnmappedError()) is None


def test_the_tables_agree_on_what_is_internal() -> None:
    internal = {kind for kind, status in grpc_status.STATUS.items() if status is grpc.StatusCode.INTERNAL}
    assert internal == {kind for kind, status in http_api.STATUS.items() if status == 500}
    assert grpc_status.STATUS.keys() == http_api.STATUS.keys()


def test_the_nearest_ancestor_counts() -> None:
    assert http_api.status_of(StoreUnavailable()) == 503
    assert grpc_status.status_of(StoreUnavailable()) is grpc.StatusCode.UNAVAILABLE


def test_an_unknown_error_is_a_constant_text() -> None:
    response = http_api.error_response(RuntimeError("secret"))
    assert response.status_code == 500
    assert b"secret" not in bytes(response.body)


def test_http_says_when_to_come_back() -> None:
    assert http_api.error_response(Overloaded(retry_after_s=2.2)).headers["retry-after"] == "3"
    assert "retry-after" not in http_api.error_response(Conflict("x")).headers


def test_the_client_knows_every_error_that_is_told() -> None:
    for kind, status in grpc_status.STATUS.items():
        if status is not grpc.StatusCode.INTERNAL:
            assert client_errors.ERRORS[kind.__name__] is kind
            assert status in client_errors.BY_STATUS
