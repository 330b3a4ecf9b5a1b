from collections.abc import AsyncGenerator

import pytest

from tests.plugins.rig import Rig, open_rig


@pytest.fixture
async def rig(autojump_clock) -> AsyncGenerator[Rig]:
    async with open_rig() as one:
        yield one
