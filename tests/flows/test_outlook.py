"""What a plan says before anything is done."""

import pytest

from catalog.models import Asset
from catalog.models import DataSource
from catalog.models import TimeSeries
from flows.outlook import outlook_live
from flows.plan import Selection
from flows.plan import plan


@pytest.mark.django_db
@pytest.mark.parametrize(("schema", "filled"), [("trades", True), ("mbp-10", False)])
def test_a_live_job_says_whether_history_fills_what_it_does_not_hear(schema: str, filled: bool) -> None:
    source = DataSource.objects.create(name="coins", vendor="binance")
    made = TimeSeries.objects.create(series_id="live", source=source, schema=schema, extractor_type="realtime")
    made.assets.add(Asset.objects.create(asset_class="crypto", symbol="BTCUSDT"))
    (job,) = plan(Selection(extractor_type="realtime"))
    said = outlook_live(job)
    assert (said["schema"], said["subscribed"], said["filled"]) == (schema, ["BTCUSDT"], filled)
