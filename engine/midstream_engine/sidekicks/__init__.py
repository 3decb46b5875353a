"""Sidekicks: Python models in processes of their own, beside the engine.

For the engine (each imported from its own module; this one imports nothing, because a worker loads it, too):

    from midstream_engine.sidekicks.launch import Limits
    from midstream_engine.sidekicks.pool import Sidekicks
    from midstream_engine.sidekicks.settings import SidekickSettings
    from midstream_engine.sidekicks.sidekick import Sidekick

    sidekicks = Sidekicks(SidekickSettings(host=None, limits=Limits(memory=1 << 30)), emit=emit, changed=touch)
                                            made on the event loop, before any thread lowers its priority
    sidekicks.acquire(name, code, sha256) -> Sidekick       in the loading thread; raises LoadError
    sidekicks.release(sidekick) -> None                     from any thread, never waits
    sidekicks.report() -> list[dict]                        {name, model, sha256, pid, status, restarts, reason}
    await sidekicks.close()                                 before what waits for the loading thread

    sidekick.entry                                          "process" | "wallaroo_json"
    await sidekick.call(inputs, rows, seconds) -> dict[str, Array]      raises SidekickFailed, SidekickTimedOut,
    sidekick.call_blocking(inputs, rows, seconds) -> dict[str, Array]   Overloaded; the latter in the loading thread

`inputs` are columns of `rows` rows, in the order of the fields in the first row. The outputs are as the code gave
them: names, types and the shapes of rows are the caller's to check; that there are `rows` rows is checked.

    wire      frames over a socket, without pickle
    values    what users' code gets and gives
    entry     users' code: unpacked, imported, its entry point found
    worker    the process itself
    launch    starting and ending it
    isolation who may read whose memory and environment
    orphans   what a worker leaves behind, found and ended
    folders   where workers may write
    host      the container of their own, which starts them for an engine
    handle    an engine's hold on a process, its own or a host's
    output    what it prints
    process   one worker: one connection, one call at a time
    crew      one model's workers, and their restarts
    sidekick  one model that can be called
    pool      all of them, shared and counted
"""
