"""The waiting rooms: what the API, the workers and everybody say to Redis about jobs, each step one script.

`docs/protocol.md` tells the rules; the scripts in `shared/scripts/` keep them.

    state     who moves it                              to
    (none)    admit (API)                               waiting
    waiting   take (worker)                             running
    waiting   cancel (API), take, sweep: no owner left  (none)
    waiting   take, sweep: past its deadline, no worker ended
    running   append (worker), the last event           ended
    running   release (worker)                          waiting, ended, (none)
    running   make_room (worker): batch work            waiting
    running   cancel (API), sweep: no owner left        running, cancelled: its worker releases it
    running   sweep: its lease ran out                  waiting, ended, (none) if cancelled
    ended     forget (API), or 60 s                     (none)
"""
