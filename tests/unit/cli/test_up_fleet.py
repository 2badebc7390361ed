from __future__ import annotations

import asyncio

import pytest

from sled_cli.errors import CliError
from sled_cli.up.fake_process import FakeLauncher, FakeProbe, FakeProcess
from sled_cli.up.fleet import Fleet
from sled_cli.up.keeper import GaveUp, State
from sled_cli.up.process import ProcessSpec, Role
from sled_cli.up.restarts import RestartPolicy

POLICY = RestartPolicy(first_delay_seconds=0.0, longest_delay_seconds=0.0, most_deaths=3)


def spec(name: str, role: Role, stop_seconds: float = 60.0) -> ProcessSpec:
    return ProcessSpec(name, role, "module", f"{name}.yaml", f"http://{name}/readyz", stop_seconds)


V = spec("v", Role.VERIFIER)
D1 = spec("d1", Role.DEVICE)
D2 = spec("d2", Role.DEVICE)


class Stage:
    """A fleet of fakes and what was seen of it."""

    def __init__(self, *specs: ProcessSpec, stubborn: frozenset[str] = frozenset()) -> None:
        self.launcher = FakeLauncher(stubborn=stubborn)
        self.probe = FakeProbe()
        self.lines: list[str] = []
        self._changed = asyncio.Event()
        self.fleet = Fleet(
            specs,
            self.launcher,
            self.probe,
            policy=POLICY,
            on_line=lambda spec, line: self.lines.append(f"{spec.name}: {line}"),
            on_change=self._changed.set,
        )

    def named(self, name: str) -> list[FakeProcess]:
        return [process for process in self.launcher.started if process.spec.name == name]

    async def until(self, name: str, state: State) -> None:
        keeper = next(k for k in self.fleet.keepers if k.spec.name == name)
        while keeper.state is not state:
            self._changed.clear()
            await self._changed.wait()


async def test_devices_start_once_verifiers_serve_and_stop_before_them() -> None:
    stage = Stage(D1, V, D2)
    stage.probe.away.add(V.ready_url)
    async with stage.fleet:
        starting = asyncio.create_task(stage.fleet.start())
        await stage.launcher.launched(1)
        assert [p.spec.name for p in stage.launcher.started] == ["v"]
        stage.probe.away.clear()
        await starting
        assert stage.fleet.ready
        assert [p.spec.name for p in stage.launcher.started] == ["v", "d1", "d2"]
        ended: list[str] = []
        for process in stage.launcher.started:
            task = asyncio.create_task(process.wait())
            task.add_done_callback(lambda _, name=process.spec.name: ended.append(name))
        await stage.fleet.stop()
    assert ended == ["d1", "d2", "v"]
    assert {keeper.state for keeper in stage.fleet.keepers} == {State.STOPPED}


async def test_what_dies_is_started_again_and_the_others_go_on() -> None:
    stage = Stage(V, D1)
    async with stage.fleet:
        await stage.fleet.start()
        stage.named("v")[0].say("last words")
        stage.named("v")[0].exit(-9)
        await stage.launcher.launched(3)
        await stage.until("v", State.READY)
        assert [p.spec.name for p in stage.launcher.started] == ["v", "d1", "v"]
        assert [(k.spec.name, k.restarts) for k in stage.fleet.keepers] == [("v", 1), ("d1", 0)]
    assert stage.lines == ["v: last words", "v: was ended by signal 9; starts again in 0 s"]
    assert stage.named("d1")[0].signals == ["terminate"]


async def test_a_process_that_dies_again_and_again_ends_the_fleet() -> None:
    stage = Stage(V, D1)
    async with stage.fleet:
        await stage.fleet.start()
        for count in (1, 3, 4):
            process = await stage.launcher.launched(count)
            assert process.spec.name == "v"
            process.say(f"life {count}")
            process.exit(1)
            if count == 1:
                await stage.launcher.launched(2)
        with pytest.raises(
            GaveUp, match=r"(?s)verifier v ended with exit code 1, 3 times in a row"
        ):
            await stage.fleet.until(asyncio.sleep(60))
    assert stage.named("d1")[0].signals == ["terminate"]


async def test_a_refused_configuration_is_told_with_the_last_words() -> None:
    stage = Stage(V)
    stage.probe.away.add(V.ready_url)
    async with stage.fleet:
        starting = asyncio.create_task(stage.fleet.start())
        process = await stage.launcher.launched(1)
        process.say("model.path: no such file")
        process.exit(2)
        with pytest.raises(GaveUp, match=r"(?s)v refuses its configuration.*model\.path: no such"):
            await starting


async def test_who_does_not_stop_in_time_is_killed() -> None:
    slow = spec("slow", Role.DEVICE, stop_seconds=0.01)
    stage = Stage(slow, V, stubborn=frozenset({"slow"}))
    async with stage.fleet:
        await stage.fleet.start()
    assert stage.named("slow")[0].signals == ["terminate", "kill"]
    assert stage.named("v")[0].signals == ["terminate"]


async def test_hurry_kills_everything() -> None:
    stage = Stage(V, D1, stubborn=frozenset({"v", "d1"}))
    async with stage.fleet:
        await stage.fleet.start()
        stopping = asyncio.create_task(stage.fleet.stop())
        await stage.until("d1", State.STOPPING)
        stage.fleet.hurry()
        await stopping
    assert stage.named("v")[0].signals == ["kill"]


async def test_readiness_that_never_comes_is_an_error_that_names_who() -> None:
    launcher, probe = FakeLauncher(), FakeProbe()
    probe.away.add(D1.ready_url)
    fleet = Fleet((V, D1, D2), launcher, probe, on_line=lambda *_: None, ready_seconds=0.05)
    async with fleet:
        with pytest.raises(CliError, match=r"not ready after 0\.05 seconds: d1$"):
            await fleet.start()


async def test_stopping_during_the_start_leaves_nothing() -> None:
    stage = Stage(V, D1)
    stage.probe.away.add(V.ready_url)
    async with stage.fleet:
        starting = asyncio.create_task(stage.fleet.start())
        process = await stage.launcher.launched(1)
        starting.cancel()
        await asyncio.wait({starting})
    assert process.signals == ["terminate"]
    assert len(stage.launcher.started) == 1
