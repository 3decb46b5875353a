"""The objects that a Pipeline owns, as it wants them: pure functions from its spec.

Each is complete with labels, owner and digest, ready to be applied as it is. `config_map` and `registry_secret` stand
apart because they change with what serves; everything else changes with `spec.deployment` alone.
"""

from midstream_api.pipeline import PipelineSpec
from midstream_operator import metadata
from midstream_operator.metadata import Owner
from midstream_operator.objects import engine, load_balancer
from midstream_operator.objects.config import ConfigTooLarge, config_map, registry_secret
from midstream_operator.objects.images import Images
from midstream_operator.observed import Object

__all__ = ["ConfigTooLarge", "Images", "config_map", "desired", "registry_secret"]


def desired(owner: Owner, spec: PipelineSpec, settings: Images) -> list[Object]:
    """Make all owned objects but the engine's ConfigMap and Secret, in the order to apply them.

    None while the Pipeline is not deployed.
    """
    if not spec.deployed:
        return []
    made = [
        engine.service_account(owner),
        load_balancer.service_account(owner),
        engine.service(owner),
        load_balancer.service(owner, spec),
        load_balancer.config_map(owner, spec),
        engine.deployment(owner, spec, settings),
        load_balancer.deployment(owner, spec, settings),
    ]
    return [metadata.digested(each) for each in made]
