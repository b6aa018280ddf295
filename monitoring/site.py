"""What the monitor works with, opened in one place."""

from dataclasses import dataclass

from monitoring.decisions import DecisionLog
from monitoring.history import History
from monitoring.settings import Settings
from monitoring.trigger import LocalTrigger, NoTrigger, Trigger
from service.contract.artifact import ModelStore
from service.contract.ledger import Ledger
from service.contract.pixels import PixelStore
from service.contract.shared_models import model_store
from service.contract.store import Store


@dataclass
class Site:
    """One database behind store, ledger and history; two folders; and what starts a retraining."""

    store: Store
    ledger: Ledger
    history: History
    pixels: PixelStore
    models: ModelStore
    trigger: Trigger
    decisions: DecisionLog


def open_site(settings: Settings) -> Site:
    """The site that the settings name. Raises StoreUnavailable while its database is away."""
    ledger = Ledger(settings.store_url)
    make = NoTrigger if settings.trigger == "none" else LocalTrigger
    return Site(
        store=Store(settings.store_url),
        ledger=ledger,
        history=History(settings.store_url),
        pixels=PixelStore(settings.pixels_dir),
        models=model_store(settings.models, settings.models_url),
        trigger=make(ledger, settings),
        decisions=DecisionLog(ledger, settings.judge),
    )
