#!/usr/bin/env escript
%%! -kernel logger_level none
%% The other side of the comparison: a real Erlang supervisor that is led through a history, one step a line.
%%
%%   begin STRATEGY INTENSITY AUTO_SHUTDOWN    a new history; the restart period is an hour
%%   child ID RESTART SIGNIFICANT SHUTDOWN     a child of the next `boot` or `change`
%%   boot | stop                               starts, stops the supervisor
%%   add ID RESTART SIGNIFICANT SHUTDOWN       start_child
%%   start ID | terminate ID | delete ID       restart_child, terminate_child, delete_child
%%   exit HOW ID                               a child ends by itself
%%   both ID ID                                two are killed before the supervisor looks, in the order of their starts
%%   fail N ID | ignore N ID                   what the next N starts of a child come to
%%   meanwhile HOW LEAVER STARTING STEP        a `boot` or an `exit`; a child that is not permanent leaves when the start of
%%                                             another one, in its group, has begun
%%   change STRATEGY INTENSITY AUTO_SHUTDOWN   change_code with the children named since
%%
%% Each step but `begin` and `child` is answered by one line: its outcome, what happened, and what there is afterwards.
-module(oracle).
-mode(compile).
-behaviour(supervisor).
-export([main/1, init/1, start/1]).

main(_) ->
    process_flag(trap_exit, true),
    ets:new(oracle, [named_table, public, ordered_set]),
    loop().

loop() ->
    case io:get_line("") of
        Line when is_list(Line) ->
            perform(string:lexemes(Line, " \n")),
            loop();
        _ ->
            ok
    end.

perform(["begin" | Flags]) ->
    end_supervisor(get(sup)),
    ets:delete_all_objects(oracle),
    ets:insert(oracle, {events, 0}),
    put(sup, none),
    put(flags, Flags),
    put(children, []);
perform(["child" | Spec]) ->
    put(children, get(children) ++ [Spec]);
perform(Step) ->
    Outcome = case {Step, get(sup)} of
        {["boot"], _} -> boot();
        {["fail", N, Id], _} -> next(Id, fail, N);
        {["ignore", N, Id], _} -> next(Id, ignore, N);
        {["meanwhile", How, Leaver, Starting, "boot"], _} -> prepare(How, Leaver, Starting, get(children)), boot();
        {_, none} -> "gone";
        {_, Sup} -> try step(Step, Sup) catch exit:_ -> "gone" end
    end,
    settle(get(sup)),
    ets:match_delete(oracle, {{meanwhile, '_'}, '_', '_'}),
    Events = [Text || {{event, _}, Text} <- ets:tab2list(oracle)],
    ets:match_delete(oracle, {{event, '_'}, '_'}),
    io:format("~s | ~s | ~s~n", [Outcome, lists:join(", ", Events), lists:join(" ", listing(get(sup)))]).

%% What the supervisor calls.

init(_) ->
    [Strategy, Intensity, Auto] = get_shared(flags),
    Flags = #{strategy => list_to_atom(Strategy), intensity => list_to_integer(Intensity),
              period => 3600, auto_shutdown => list_to_atom(Auto)},
    {ok, {Flags, [spec(Spec) || Spec <- get_shared(children)]}}.

spec([Id, Restart, Significant, Shutdown]) ->
    Args = case get_shared(flags) of ["simple_one_for_one" | _] -> []; _ -> [Id] end,
    #{id => Id, start => {?MODULE, start, Args}, restart => list_to_atom(Restart),
      significant => Significant =:= "significant", shutdown => shutdown(Shutdown)}.

shutdown("timeout") -> 5000;
shutdown(Other) -> list_to_atom(Other).

start(Id) ->
    case ets:take(oracle, {meanwhile, Id}) of
        [{_, How, Leaver}] -> leave_meanwhile(How, Leaver);
        [] -> ok
    end,
    case outcome(Id) of
        fail ->
            note("fail", Id),
            {error, no_luck};
        ignore ->
            note("ignore", Id),
            ignore;
        start ->
            note("start", Id),
            Supervisor = self(),
            Pid = spawn_link(fun() ->
                process_flag(trap_exit, true),
                Supervisor ! {up, self()},
                live(Supervisor, Id)
            end),
            receive {up, Pid} -> ok end,
            ets:insert(oracle, [{{pid, Id}, Pid}, {{id, Pid}, Id}]),
            {ok, Pid}
    end.

%% The supervisor itself waits for the end, and hears of it in its own time.
leave_meanwhile(How, Leaver) ->
    case ets:lookup(oracle, {pid, Leaver}) of
        [{_, Pid}] -> case is_process_alive(Pid) of true -> leave(Pid, Leaver, How); false -> ok end;
        [] -> ok
    end.

live(Supervisor, Id) ->
    receive
        {leave, Reason} ->
            exit(Reason);
        {'EXIT', Supervisor, Reason} ->
            note("stop", Id),
            exit(Reason)
    end.

outcome(Id) ->
    case ets:lookup(oracle, {next, Id}) of
        [{_, What, N}] when N > 0 ->
            ets:insert(oracle, {{next, Id}, What, N - 1}),
            What;
        _ ->
            start
    end.

note(What, Id) ->
    ets:insert(oracle, {{event, ets:update_counter(oracle, events, 1)}, What ++ " " ++ Id}).

%% The steps.

boot() ->
    share(),
    case supervisor:start_link(?MODULE, []) of
        {ok, Sup} ->
            put(sup, Sup),
            "ok";
        {error, {shutdown, {failed_to_start_child, _, _}}} ->
            "failed";
        {error, _} ->
            "invalid"
    end.

step(["stop"], Sup) ->
    exit(Sup, shutdown),
    "ok";
step(["add", Id | _] = [_ | Spec], Sup) ->
    What = case get_shared(flags) of ["simple_one_for_one" | _] -> [Id]; _ -> spec(Spec) end,
    started(supervisor:start_child(Sup, What));
step(["start", Id], Sup) ->
    started(supervisor:restart_child(Sup, Id));
step(["terminate", Id], Sup) ->
    case get_shared(flags) of
        ["simple_one_for_one" | _] ->
            case running(Id, Sup) of none -> "not_found"; Pid -> plain(supervisor:terminate_child(Sup, Pid)) end;
        _ ->
            plain(supervisor:terminate_child(Sup, Id))
    end;
step(["delete", Id], Sup) ->
    plain(supervisor:delete_child(Sup, Id));
step(["change" | Flags], Sup) ->
    Before = {get_shared(flags), get_shared(children)},
    put(flags, Flags),
    share(),
    sys:suspend(Sup),
    Changed = sys:change_code(Sup, ?MODULE, undefined, []),
    sys:resume(Sup),
    case Changed of
        ok ->
            "ok";
        {error, _} ->
            {OldFlags, OldChildren} = Before,
            put(flags, OldFlags),
            put(children, OldChildren),
            share(),
            "invalid"
    end;
step(["meanwhile", How, Leaver, Starting | ["exit" | _] = Step], Sup) ->
    case {get_shared(flags), supervisor:get_childspec(Sup, Leaver)} of
        {["one_for_one" | _], _} ->
            "none";
        {_, {ok, #{restart := Restart}}} when Restart =/= permanent ->
            ets:insert(oracle, {{meanwhile, Starting}, How, Leaver}),
            step(Step, Sup);
        _ ->
            "none"
    end;
step(["exit", How, Id], Sup) ->
    case running(Id, Sup) of none -> "none"; Pid -> leave(Pid, Id, How), "ok" end;
step(["both", One, Two], Sup) ->
    Chosen = [{Id, Pid} || {Id, Pid, _, _} <- lists:reverse(supervisor:which_children(Sup)),
              is_pid(Pid), Id =:= One orelse Id =:= Two],
    case {get_shared(flags), Chosen} of
        {[Strategy | _], [{A, PidA}, {B, PidB}]} when Strategy =/= "one_for_one" ->
            sys:suspend(Sup),
            {message_queue_len, N} = process_info(Sup, message_queue_len),
            leave(PidA, A, "kill"),
            queued(Sup, N + 1),
            leave(PidB, B, "kill"),
            queued(Sup, N + 2),
            sys:resume(Sup),
            "ok";
        _ ->
            "none"
    end.

prepare(How, Leaver, Starting, Children) ->
    case lists:keyfind(Leaver, 1, [list_to_tuple(Child) || Child <- Children]) of
        {_, Restart, _, _} when Restart =/= "permanent" ->
            ets:insert(oracle, {{meanwhile, Starting}, How, Leaver});
        _ ->
            ok
    end.

share() ->
    ets:insert(oracle, [{flags, get(flags)}, {children, get(children)}]),
    put(children, []).

get_shared(What) ->
    [{_, Value}] = ets:lookup(oracle, What),
    Value.

next(Id, What, N) ->
    ets:insert(oracle, {{next, Id}, What, list_to_integer(N)}),
    "ok".

leave(Pid, Id, How) ->
    Monitor = monitor(process, Pid),
    note("exit", Id),
    case How of
        "kill" -> exit(Pid, kill);
        "normal" -> Pid ! {leave, normal};
        "shutdown" -> Pid ! {leave, shutdown};
        "remark" -> Pid ! {leave, {shutdown, done}};
        "crash" -> Pid ! {leave, boom}
    end,
    receive {'DOWN', Monitor, _, _, _} -> ok end.

queued(Sup, N) ->
    case process_info(Sup, message_queue_len) of
        {message_queue_len, Len} when Len >= N -> ok;
        _ -> timer:sleep(1), queued(Sup, N)
    end.

running(Id, Sup) ->
    Pids = [Pid || {_, Pid, _, _} <- supervisor:which_children(Sup), is_pid(Pid)],
    case ets:lookup(oracle, {pid, Id}) of
        [{_, Pid}] -> case lists:member(Pid, Pids) of true -> Pid; false -> none end;
        [] -> none
    end.

started({ok, undefined}) -> "ignored";
started({ok, Pid}) when is_pid(Pid) -> "ok";
started({error, {already_started, _}}) -> "already_started";
started({error, {no_luck, _}}) -> "failed";
started({error, no_luck}) -> "failed";
started({error, Reason}) when is_atom(Reason) -> atom_to_list(Reason);
started({error, _}) -> "invalid".

plain(ok) -> "ok";
plain({error, Reason}) -> atom_to_list(Reason).

%% Until nothing more will happen by itself.
settle(none) ->
    ok;
settle(Sup) ->
    case is_process_alive(Sup) of
        false ->
            receive {'EXIT', Sup, _} -> ok end,
            note("ended", "supervisor"),
            put(sup, none);
        true ->
            Children = try supervisor:which_children(Sup) catch exit:_ -> [{gone, restarting, worker, []}] end,
            Moving = [Pid || {_, Pid, _, _} <- Children,
                      Pid =:= restarting orelse (is_pid(Pid) andalso not is_process_alive(Pid))],
            case Moving of
                [] -> ok;
                _ -> timer:sleep(1), settle(Sup)
            end
    end.

end_supervisor(Sup) when is_pid(Sup) ->
    exit(Sup, shutdown),
    receive {'EXIT', Sup, _} -> ok end;
end_supervisor(_) ->
    ok.

%% In the order of starts; Erlang lists the youngest first, and a pool in no order.
listing(none) ->
    [];
listing(Sup) ->
    Children = lists:reverse(supervisor:which_children(Sup)),
    case get_shared(flags) of
        ["simple_one_for_one" | _] ->
            lists:sort([running_text(Pid) || {_, Pid, _, _} <- Children]);
        _ ->
            [Id ++ state(Pid) || {Id, Pid, _, _} <- Children]
    end.

running_text(Pid) ->
    [{_, Id}] = ets:lookup(oracle, {id, Pid}),
    Id ++ "+".

state(undefined) -> "-";
state(_) -> "+".
