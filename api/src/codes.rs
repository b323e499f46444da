//! Every stable `code` that an answer may bear, in one place; `docs/errors.md` is rendered from it.

/// One code: what it means and what whoever gets it should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemCode {
    /// The code. Never renamed, never given another meaning.
    pub code: &'static str,
    /// The HTTP status it comes with.
    pub status: u16,
    /// What it means, in a few words; the answer's `title`.
    pub title: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

const fn code(
    code: &'static str,
    status: u16,
    title: &'static str,
    remedy: &'static str,
) -> ProblemCode {
    ProblemCode {
        code,
        status,
        title,
        remedy,
    }
}

/// All codes, by status and name.
#[rustfmt::skip]
pub const CODES: &[ProblemCode] = &[
    code("invalid_cursor", 400, "The cursor is none that was given out", "Begin without a cursor, and pass on `nextCursor` as it comes."),
    code("invalid_header", 400, "A header makes no sense", "Correct the header that `field` names."),
    code("invalid_query", 400, "A query parameter makes no sense", "Correct the parameter that `field` names; `detail` says what is expected."),
    code("malformed", 400, "The envelope cannot be read", "Send one JSON object; `detail` says what cannot be read."),
    code("malformed_bundle", 400, "The bundle is not a readable tar archive", "Pack the bundle's directory anew as an uncompressed tar."),
    code("malformed_checkpoint", 400, "The request to the witness cannot be read", "Send `old <size>`, the proof's hashes in base64, an empty line, and the checkpoint."),
    code("malformed_json", 400, "The body is not acceptable JSON", "Correct the text at the byte, line and column that `detail` names. Duplicate keys, numbers beyond 2^53, NaN and trailing bytes are refused, too."),
    code("malformed_path", 400, "The path is not UTF-8", "Percent-encode the path's segments as UTF-8."),
    code("unknown_parameter", 400, "Unknown query parameter", "Leave the parameter out, or use the one that `detail` suggests."),
    code("unauthenticated", 401, "Not authenticated", "Send `Authorization: Bearer <token>` with a token that is neither expired nor revoked."),
    code("bad_checkpoint", 403, "The checkpoint is not its log's", "Send the checkpoint as the log signed it; `detail` says what is wrong with it."),
    code("bad_signature", 403, "The envelope's signature does not hold", "Sign with the key that is known as the sender's, over what is sent; or leave the signature out, and meshd signs."),
    code("bad_succession", 403, "The note does not say that another key took over", "Send the succession as both keys signed it, and those before it first; `detail` says what is wrong with it."),
    code("chaos_disabled", 403, "Chaos is switched off here", "Set `chaos.enabled` to true in meshd's configuration, or `MESH_CHAOS__ENABLED=true` in its environment, and start it again; switch it off again after the rehearsal."),
    code("chaos_root_refused", 403, "The root of the tree is never struck", "Name another part; the root's end is meshd's."),
    code("cross_agent_off", 403, "Agents may not delegate to agents here", "Set `orchestrator.allow_cross_agent`, or submit the task as an operator."),
    code("forbidden", 403, "Not permitted", "Use a token whose role permits this; `errors` says what else is asked for."),
    code("forged_sender", 403, "The message speaks for somebody else", "Leave `from` out, or name yourself; an admin may name anybody."),
    code("insufficient_signatures", 403, "Too few admins signed", "Have more of them sign: `meshctl governance sign`; `errors` says how many it takes."),
    code("invalid_admin_authority", 403, "The issuer is no admin", "Have an admin issue it; `meshctl governance show` lists the admins."),
    code("memory_not_shared", 403, "The agent does not share its memory", "Ask its owner to share it in the manifest."),
    code("memory_not_yours", 403, "The memory is another agent's", "Write to the agent's own memory."),
    code("not_allowed", 403, "The sender may not do this", "Leave `from` out, or name yourself; only an admin speaks for others."),
    code("service_denied", 403, "The configuration does not let meshd call this", "Change what `detail` names: the `services` section of the configuration, or the service's address."),
    code("unsigned", 403, "The envelope is not signed", "Sign it."),
    code("agent_not_found", 404, "No such agent", "Check the id; `GET /v1/agents` lists the agents."),
    code("budget_not_found", 404, "Nothing bounds that account", "Nothing: what it uses is not bounded. `GET /v1/budgets` lists what is."),
    code("dead_letter_not_found", 404, "No such dead letter", "Look for it: `meshctl bus dead list`. Only the latest 1000 are kept."),
    code("gate_not_found", 404, "No gate is closed before that account", "Nothing: who uses it is not held up. `GET /v1/gates` lists the gates."),
    code("key_not_found", 404, "No such key", "Check the key; `GET /v1/keys` lists the keys."),
    code("log_not_found", 404, "No such log is co-signed here", "Have the log's key registered: `meshctl key register`."),
    code("memory_key_not_found", 404, "No such key", "Check the key; `GET /v1/memory/{agent}` lists the keys. It may have expired."),
    code("message_not_traced", 404, "The message is neither traced nor one of the latest", "Send it with `context: {\"trace\": true}`; what is on record is in `GET /v1/audit`."),
    code("not_found", 404, "What the envelope asks for is not there", "Check what `field` names."),
    code("not_found_then", 404, "There was no such thing then", "Ask for a later position; `GET /v1/audit?task=` or `?agent=` lists what there is on record."),
    code("not_in_inbox", 404, "Nothing of this id is in the inbox", "Check the id; `GET /v1/inbox?state=all` lists the requests."),
    code("plan_not_found", 404, "No such plan", "Look for it: `meshctl plan list`."),
    code("record_not_found", 404, "The log has no such record yet", "Ask for a position below the checkpoint's size."),
    code("schedule_not_found", 404, "No such schedule", "Look for it: `meshctl schedule list`."),
    code("secret_not_found", 404, "No such secret", "Check the name; `GET /v1/secrets` lists the secrets."),
    code("service_not_found", 404, "No such service", "Look for it: `meshctl service list`."),
    code("subscription_not_found", 404, "No such subscription", "Look for it: `meshctl bus subscription list`; or make it."),
    code("task_not_found", 404, "No such task", "Check the id; `GET /v1/tasks` lists the tasks."),
    code("task_removed", 404, "Retention removed the task", "Nothing brings it back; `journal.retention` says how long ended tasks are kept."),
    code("tile_not_found", 404, "No such tile", "Ask for tiles that the checkpoint's size covers, by their one path."),
    code("token_not_found", 404, "No such token", "Check the id; `GET /v1/tokens` lists the tokens."),
    code("unknown_address", 404, "Nobody has this address", "Check `to`; `GET /v1/agents` lists the agents."),
    code("unknown_path", 404, "No such path", "Check the path against `/openapi.json`."),
    code("workflow_not_found", 404, "No such run of a workflow", "Look for it: `meshctl workflow list`."),
    code("method_not_allowed", 405, "The path does not take this method", "Use one of the methods that the `Allow` header names."),
    code("request_timeout", 408, "The request came too slowly", "Send it again, faster or in smaller pieces."),
    code("agent_needed", 409, "Agents that run need this one", "Stop them first, or say what becomes of them: `dependents` of `stop` is `stop` or `leave` (`meshctl agent stop --with-dependents`, `--alone`)."),
    code("agent_not_running", 409, "No process of the agent runs", "Start it, or look at `meshctl agent show ID`; agents that are part of meshd have no process of their own."),
    code("agent_paused", 409, "The agent's processes are frozen", "Let them go on first: `meshctl agent resume ID`."),
    code("agent_terminated", 409, "The agent has ended for good", "Register it again, or address another agent."),
    code("already_running", 409, "The agent runs already", "Nothing, or `restart` it."),
    code("chaos_missed", 409, "The blow was recorded and missed", "Nothing: its target ended by itself before, or the kernel refused, as `detail` says."),
    code("chaos_no_target", 409, "There is nothing to strike just now", "Wait until the agent runs; `GET /v1/agents/{id}/status` says when."),
    code("chaos_under_way", 409, "Such a blow is under way already", "Wait until it ends by itself."),
    code("chaos_unsupported", 409, "This target cannot be struck like that", "Use another action, or another target; `detail` says why."),
    code("dead_letter_not_retryable", 409, "The dead letter cannot be put back", "Send the message again, or drop the letter: its subscription is gone, or it has expired."),
    code("directory_full", 409, "Too many agents are registered", "Remove some."),
    code("emergency_shutdown", 409, "A shutdown is in force", "Submit an `emergency_lift` that enough admins signed, then recover the agents: `meshctl governance`."),
    code("forked_log", 409, "There are two logs of one name", "Believe neither before you know why: somebody signs for both."),
    code("idempotency_conflict", 409, "The idempotency key belongs to another task", "Use another key for another task."),
    code("illegal_order", 409, "The order does not fit the agent's state", "Look at `GET /v1/agents/{id}/status`; `detail` says what stands in the way."),
    code("illegal_step", 409, "The lifecycle does not allow this step", "Wait until the agent is executing, or start it."),
    code("key_used", 409, "The key is or was somebody's", "Make a new key; one that was revoked or replaced never comes back."),
    code("max_retries_exceeded", 409, "The agent's recoveries are used up", "`recover` with `{\"force\": true}`, as an admin."),
    code("memory_full", 409, "The agent's memory is full", "Delete entries, or raise the limit in its manifest."),
    code("memory_sealed", 409, "The agent's memory is sealed", "Register the agent again: its memory was sealed when it was terminated."),
    code("needs_checks", 409, "The task's result has to be checked", "Leave it to its agent: its contract has checks, which are made of what the agent hands in."),
    code("needs_missing", 409, "The version needs agents that are not there", "Deploy or start what `detail` names first."),
    code("no_version", 409, "The agent has no registered version", "Register one."),
    code("not_in_quarantine", 409, "The agent is not in quarantine", "Nothing: there is nothing to recover from."),
    code("not_waiting_for_approval", 409, "The task waits for no approval", "Nothing: it asks nobody, or was answered before."),
    code("nothing_to_reset", 409, "The trust stands there already", "Nothing, or name another `score`: nothing was seen of it yet that a reset takes back."),
    code("plan_changed", 409, "Somebody wrote another version of the plan", "Read it, and name the version that you read."),
    code("plan_started", 409, "The plan was started", "Nothing, or store another one: a plan stays as it was when it was started."),
    code("quarantined", 409, "The agent is in quarantine", "`recover` it, or `terminate` it."),
    code("replayed", 409, "The envelope came before", "Give each message an `id` of its own, and a `timestamp` of now; or leave both out."),
    code("schedule_exists", 409, "Another schedule has this name", "Remove that one, or use another name."),
    code("service_configured", 409, "The service stands in a file of the configuration", "Change it in the file that `services.definitions` names, and restart meshd."),
    code("service_exists", 409, "Another service has this id", "Replace it with `PUT /v1/services/{id}`, or use another id."),
    code("service_inactive", 409, "The service is inactive", "Set its status to active, or call another one."),
    code("service_secret_missing", 409, "The service's secret is not to be had", "Set it, and let the service have it: `meshctl secret set NAME --service ID`."),
    code("stale", 409, "The envelope is of an incarnation that is over", "Drop it."),
    code("stale_attempt", 409, "The attempt is over, or never was", "Drop the outcome: the task has gone on without it."),
    code("subscription_exists", 409, "Another subscription has this name", "Remove that one, or use another name."),
    code("task_ended", 409, "The task has ended already", "Nothing, or `retry` it."),
    code("task_exists", 409, "A task of this id exists", "Leave the id out; meshd makes one."),
    code("task_not_ended", 409, "The task has not ended", "Cancel it, or wait until it and the one that delegated it have ended."),
    code("task_not_retryable", 409, "The task cannot be given another round", "Submit it anew; `detail` says why."),
    code("task_not_splittable", 409, "The task cannot be split", "Only what waits for an agent can; `detail` says what stands against it."),
    code("terminated", 409, "The agent has been terminated", "Register it again."),
    code("too_many_keys", 409, "Too many keys", "No key is ever forgotten; start another node."),
    code("too_many_logs", 409, "Too many logs are co-signed here", "Ask another witness."),
    code("too_many_plans", 409, "Too many plans", "Remove some that are not needed."),
    code("too_many_schedules", 409, "Too many schedules", "Remove some that are not needed."),
    code("too_many_services", 409, "Too many services", "Remove some that are not needed."),
    code("too_many_subscriptions", 409, "The agent has too many subscriptions", "Drop some, or use one pattern for several topics."),
    code("too_many_tokens", 409, "Too many tokens", "Revoke the ones that are not needed."),
    code("update_expired", 409, "The update is void", "Write and sign a new one: `meshctl governance new`."),
    code("update_replayed", 409, "The update was used, or comes too early", "Write a new one with the number that `detail` names."),
    code("upgrading", 409, "The agent is being upgraded", "Wait for the upgrade to end."),
    code("vault_full", 409, "The vault is full", "Delete secrets that nobody uses any more."),
    code("version_exists", 409, "The version is registered with other content", "Give the new content a new version."),
    code("version_refused", 409, "The version cannot be exchanged", "Register the version first, or ask for another; `detail` says why."),
    code("will_start_by_itself", 409, "The agent will start by itself", "Wait until `nextAttemptAt`."),
    code("witness_conflict", 409, "Another checkpoint was co-signed meanwhile", "Prove from the size that `detail` names."),
    code("workflow_ended", 409, "The run has ended already", "Nothing, or submit it again."),
    code("body_too_large", 413, "The body is too large", "Send less at once; `detail` names the limit."),
    code("service_answer_too_large", 413, "The service answered with too much", "Ask it for less."),
    code("submission_too_large", 413, "The tasks are too large together", "Split the submission."),
    code("too_large", 413, "The envelope is too large", "Send at most 1 MiB."),
    code("value_too_large", 413, "The value is too large", "Store less under one key; `detail` names the limit."),
    code("unsupported_media_type", 415, "The body is of another type than expected", "Send one of the types that `detail` names."),
    code("unknown_host", 421, "The Host header names another host", "Use `localhost` or the address that meshd listens on. This refuses web pages that point their own name at this host."),
    code("agent_id_mismatch", 422, "Body and path name different agents", "Leave `agentId` out of the body, or repeat the path's."),
    code("bad_bundle_signature", 422, "The bundle's signature does not hold", "Sign the bundle anew, as it is: `meshctl agent sign`; or remove `signature` from the manifest."),
    code("bad_proof", 422, "The proof does not hold", "Prove, from the size that was co-signed last, that the log has only grown."),
    code("dependency_cycle", 422, "Agents would need each other in a circle", "Leave out one of the dependencies that `detail` names."),
    code("empty_submission", 422, "The array of tasks is empty", "Submit at least one task."),
    code("expired", 422, "The envelope has expired", "Send it again with a later `expires`, or with none."),
    code("idempotency_key_for_array", 422, "One idempotency key for several tasks", "Give each task of the array an `idempotencyKey` of its own."),
    code("idempotency_key_mismatch", 422, "Two different idempotency keys", "Send the key in the header or in the body, not a different one in each."),
    code("invalid_ack", 422, "The acknowledgement makes no sense", "Correct the field that `field` names."),
    code("invalid_answer", 422, "The answer is none to this question", "Correct `answer` as `detail` says: one of the choices, or none at all where nothing was asked in words."),
    code("invalid_budget", 422, "The budget of a shared account makes no sense", "Correct what `field` and `detail` name."),
    code("invalid_bundle", 422, "The bundle makes no sense", "Correct what `field` and `detail` name."),
    code("invalid_chaos", 422, "The blow makes no sense", "Correct the field that `field` names."),
    code("invalid_erasure", 422, "The order names neither or both of task and subject", "Name one of them."),
    code("invalid_field", 422, "A field of the envelope makes no sense", "Correct the field that `field` names."),
    code("invalid_key", 422, "The memory key makes no sense", "Correct the key as `detail` says."),
    code("invalid_manifest", 422, "The manifest makes no sense", "Correct all that `errors` lists."),
    code("invalid_outcome", 422, "The outcome makes no sense", "Report either `output` or `error`."),
    code("invalid_owner", 422, "Nobody of this address can own a key", "Name an agent, a user, a node or a `role:name`."),
    code("invalid_payload", 422, "The envelope's payload does not fit its type", "Correct what `field` names; `meshd schema klp` has the form."),
    code("invalid_plan", 422, "The plan makes no sense", "Correct the field that `field` names."),
    code("invalid_reason", 422, "The reason makes no sense", "Give a short text."),
    code("invalid_scale", 422, "The number of replicas makes no sense", "Ask for as many as `detail` allows."),
    code("invalid_schedule", 422, "The schedule makes no sense", "Correct the field that `field` names."),
    code("invalid_secret", 422, "The secret cannot be kept", "Correct what `field` names; `detail` says what is expected."),
    code("invalid_service", 422, "The definition of the service makes no sense", "Correct all that `errors` lists."),
    code("invalid_service_call", 422, "The call of the service makes no sense", "Correct the field that `field` names."),
    code("invalid_subject", 422, "The token's subject makes no sense", "Correct `subject` as `detail` says."),
    code("invalid_subscription", 422, "The subscription makes no sense", "Correct the field that `field` names."),
    code("invalid_task", 422, "The task makes no sense", "Correct all that `errors` lists."),
    code("invalid_team", 422, "The team cannot be formed", "Correct the field that `field` names, or deploy agents with what the detail says is missing."),
    code("invalid_ttl", 422, "The lifetime makes no sense", "Correct `ttl` as `detail` says."),
    code("invalid_update", 422, "The update makes no sense", "Correct what `field` names, and have it signed anew."),
    code("invalid_upgrade", 422, "The upgrade makes no sense", "Correct the field that `field` names."),
    code("invalid_value", 422, "A field's value makes no sense", "Correct the field that `field` names; `detail` says what is expected."),
    code("invalid_workflow", 422, "The workflow makes no sense", "Correct all that `errors` lists."),
    code("missing_field", 422, "A field is missing", "Add the field that `field` names."),
    code("out_of_range", 422, "The log has no such record or size", "Ask for what lies below the size of the current checkpoint."),
    code("policy_refused", 422, "The operator's policy does not allow this", "Change what `field` names in the manifest, or have the operator change the policy."),
    code("service_refused", 422, "The service refused the call", "Do what `detail` says: it begins with the status that the service answered."),
    code("start_refused", 422, "The agent cannot be started as its manifest asks", "Change what `field` names, or the host, as `detail` says."),
    code("too_many_in_array", 422, "Too many tasks at once", "Submit at most 1000 tasks in one array."),
    code("unexpected", 422, "The envelope does not belong here", "Send it where `detail` says."),
    code("unknown_agent", 422, "The policy names an agent that is not registered", "Deploy the agent first, or leave it out of `agents`."),
    code("unknown_capability", 422, "The agent has no such capability", "Name one that `GET /v1/trust/{id}` lists, or none."),
    code("unknown_event", 422, "The event to resume after is not in this log", "Connect without `Last-Event-ID`: the data directory is another one than before."),
    code("unknown_field", 422, "A field is unknown", "Leave the field out, or use the one that `detail` suggests."),
    code("unknown_type", 422, "The envelope's type is unknown", "Use a type of `docs/KLP.md`."),
    code("unsupported_version", 422, "The envelope's version is not supported", "Send `\"v\": 1`."),
    code("chaos_too_fast", 429, "The tree has taken all the blows that it may", "Try again after `Retry-After` seconds."),
    code("rate_limited", 429, "Too many requests", "Slow down; try again after `Retry-After` seconds."),
    code("service_busy", 429, "The service has had its calls", "Try again after `Retry-After` seconds."),
    code("internal", 500, "A bug of meshd", "Report it with the answer's `X-Request-Id` and the log around it."),
    code("busy", 503, "meshd has too much to do", "Try again after `Retry-After` seconds."),
    code("component_restarting", 503, "A part of meshd is being restarted", "Try again after `Retry-After` seconds."),
    code("erase_failed", 503, "Memory is not erased yet", "Try again; meshd goes on trying, too."),
    code("mailbox_full", 503, "The agent's mailbox is full", "Try again after `Retry-After` seconds, when it has read some."),
    code("no_randomness", 503, "The system gives no randomness", "See to the host's random source, then try again."),
    code("not_alive", 503, "meshd cannot serve", "See meshd's log; its supervisor should restart it."),
    code("queue_full", 503, "A subscription is full", "Try again when its owner has caught up; `GET /v1/bus/routes` shows what waits."),
    code("read_only", 503, "meshd cannot write", "See to the disk that holds the data directory; meshd takes writes again when it does."),
    code("reads_behind", 503, "The read side is behind", "Try again in a moment."),
    code("service_unavailable", 503, "The service does not answer now", "Look at it: `meshctl service show ID`; try again after `Retry-After` seconds, or when it has recovered."),
    code("shutting_down", 503, "meshd is shutting down", "Try again once it is back."),
    code("too_many_asks", 503, "An agent has too many open questions", "Have some answered, or cancel their tasks; `meshctl inbox list` lists them."),
    code("too_many_streams", 503, "Too many open streams", "Close some, or try again after `Retry-After` seconds."),
    code("too_many_tasks", 503, "Too many tasks have not ended", "Try again after `Retry-After` seconds, when some have ended."),
    code("too_many_workflows", 503, "Too many runs of workflows have not ended", "Try again after `Retry-After` seconds, when some have ended."),
    code("try_again", 503, "It did not work this once", "Try again."),
    code("vault_unavailable", 503, "The vault does not open", "Do what `detail` says: put its key back, correct its mode, or remove the vault and set its secrets anew; then start meshd again."),
    code("timed_out", 504, "It took too long", "What was asked may still happen; look before asking again. With an idempotency key, asking again is safe."),
];

/// The entry of a code.
pub fn find(code: &str) -> Option<&'static ProblemCode> {
    CODES.iter().find(|entry| entry.code == code)
}

/// The text of `docs/errors.md`.
pub fn markdown() -> String {
    let mut text = String::from(HEAD);
    for entry in CODES {
        let ProblemCode {
            code,
            status,
            title,
            remedy,
        } = entry;
        text.extend([
            "| `",
            code,
            "` | ",
            &status.to_string(),
            " | ",
            title,
            " | ",
            remedy,
            " |\n",
        ]);
    }
    text
}

const HEAD: &str = "\
# Errors

Every refusal over HTTP is an RFC 9457 `application/problem+json`:

```json
{
  \"type\": \"urn:meshd:problem:agent_not_found\",
  \"title\": \"No such agent\",
  \"status\": 404,
  \"detail\": \"Agent echo not found\",
  \"code\": \"agent_not_found\"
}
```

- `code` is stable: programs decide by it. `detail` is for people and may change.
- `field`, where present, is the path of what is wrong: `requirements[1]`, `[3].priority`, a query parameter, a header.
- `errors`, where present, lists everything that is wrong, not only the first of it.
- `Retry-After`, where present, says after how many seconds trying again makes sense.
- `X-Request-Id` names the request in meshd's log. A request may bring its own.
- A refused request has changed nothing, with one exception: after `timed_out` and `internal`, look.

`meshctl` turns the status into its exit code: 400, 422 → 1; 404 → 3; 401, 403 → 4; 409 → 5; 429, 503 → 75.

| code | status | meaning | what to do |
|---|---|---|---|
";
