//! Claims: one holder at a time, tokens that rise, waiters in order, and nobody who is gone in the way.

use mesh_messages::claim::ClaimMode;
use mesh_messages::klp::{ClaimCode, ClaimOp, ClaimOpKind, ClaimReply};
use proptest::prelude::*;

use super::*;

const TTL: u64 = 60_000;

impl World {
    /// Nobody but attempts under way hold or wait, nobody waits for what is free, and what is due has a timer.
    pub(super) fn check_claims(&self, more: bool) {
        for claim in self.tasks.claims().all() {
            let holder = claim.holder.iter().chain(&claim.others);
            let holder = holder.map(|h| (&h.task, h.attempt));
            let waiting = claim.waiting.iter().map(|w| (&w.task, w.attempt));
            for (task, attempt) in holder.chain(waiting) {
                let record = self.tasks.record(task).expect("a held task");
                let team = record.is_teams().then_some(record.last_attempt);
                let current = record.attempt().map(|a| a.number).or(team);
                assert_eq!(current, Some(attempt), "{task} is in {claim:?}");
            }
            assert!(more || claim.holder.is_some(), "nobody has {claim:?}");
            let readers = claim.mode == ClaimMode::Shared;
            assert!(claim.others.is_empty() || readers, "two have {claim:?}");
            let first = claim.waiting.first();
            let first = first.is_some_and(|first| readers && first.mode == ClaimMode::Shared);
            assert!(more || !first, "the first could share {claim:?}");
        }
    }

    fn ask(&mut self, task: &TaskId, request: &str, op: ClaimOp) -> (Option<ClaimReply>, Decision) {
        let (parent, key) = self.attempt(task);
        let asker = Asker {
            parent,
            key,
            request: request.to_owned(),
        };
        let op = Box::new(op);
        let decision = self.run(Command::Claim { asker, op });
        match decision.answer.clone() {
            Answer::Claim(reply) => (reply.map(|reply| *reply), decision),
            other => panic!("expected a claim, got {other:?}"),
        }
    }

    #[track_caller]
    fn takes(&mut self, task: &TaskId, name: &str) -> u64 {
        let (reply, _) = self.ask(task, "r", op(ClaimOpKind::Acquire, name, None));
        let reply = reply.expect("an answer");
        assert!(reply.ok, "{reply:?}");
        reply.token.expect("a token")
    }

    #[track_caller]
    fn queues(&mut self, task: &TaskId, request: &str, name: &str, wait: u64) {
        let (reply, _) = self.ask(task, request, op(ClaimOpKind::Acquire, name, Some(wait)));
        assert_eq!(reply, None, "it waits");
    }
}

fn op(kind: ClaimOpKind, resource: &str, wait_ms: Option<u64>) -> ClaimOp {
    ClaimOp {
        op: kind,
        resource: resource.to_owned(),
        ttl_ms: Some(TTL),
        wait_ms,
        mode: ClaimMode::Exclusive,
        token: None,
    }
}

fn shared(resource: &str, wait_ms: Option<u64>) -> ClaimOp {
    ClaimOp {
        mode: ClaimMode::Shared,
        ..op(ClaimOpKind::Acquire, resource, wait_ms)
    }
}

/// What those who waited are told: the task, the request, and the token or why not.
fn told(decision: &Decision) -> Vec<(String, String, Result<u64, ClaimCode>)> {
    let told = decision.effects.iter().filter_map(|effect| match effect {
        Effect::ClaimAnswered { asker, reply } => {
            let what = reply.token.ok_or(reply.code.unwrap_or(ClaimCode::Invalid));
            Some((asker.parent.task.to_string(), asker.request.clone(), what))
        }
        _ => None,
    });
    told.collect()
}

/// A mesh with this many tasks at work.
fn at_work(count: u32) -> (World, Vec<TaskId>) {
    let config = TaskConfig {
        max_parallel_tasks: count,
        ..TaskConfig::default()
    };
    let mut world = World::with(config);
    world.agent("a", &["work"], &vec![1; count as usize]);
    let ids = (0..count)
        .map(|_| world.submit(json!({"requirements": ["work"]})))
        .collect();
    (world, ids)
}

#[test]
fn what_one_attempt_has_no_other_gets_before_it_is_given_back() {
    let (mut world, ids) = at_work(2);
    let first = world.takes(&ids[0], "file");
    let (reply, _) = world.ask(&ids[1], "r", op(ClaimOpKind::Acquire, "file", None));
    let reply = reply.expect("an answer");
    assert_eq!(reply.code, Some(ClaimCode::Held));
    assert_eq!(reply.holder.map(|holder| holder.task), Some(ids[0].clone()));
    assert_eq!(world.takes(&ids[0], "file"), first, "it is its own already");
    let (reply, _) = world.ask(&ids[0], "r", op(ClaimOpKind::Release, "file", None));
    assert!(reply.expect("an answer").ok);
    assert!(world.takes(&ids[1], "file") > first);
    let (reply, _) = world.ask(&ids[0], "r", op(ClaimOpKind::Release, "file", None));
    assert_eq!(reply.expect("an answer").code, Some(ClaimCode::NotHeld));
}

#[test]
fn waiters_are_served_in_their_order_and_told_why_they_wait() {
    let (mut world, ids) = at_work(4);
    let mut last = world.takes(&ids[0], "port");
    for (id, request) in ids[1..].iter().zip(["one", "two", "three"]) {
        world.queues(id, request, "port", 60_000);
    }
    let task = world.view(&ids[2]);
    let waits = task.waiting_for.expect("it waits");
    assert_eq!(waits.reason, WaitReason::Claim);
    assert_eq!(waits.tasks, [ids[0].clone()], "{}", waits.detail);
    for (before, (id, request)) in ids.iter().zip(ids[1..].iter().zip(["one", "two", "three"])) {
        let (_, decision) = world.ask(before, "r", op(ClaimOpKind::Release, "port", None));
        let [(task, asked, Ok(token))] = &told(&decision)[..] else {
            panic!("{decision:?}");
        };
        assert_eq!((task.as_str(), asked.as_str()), (id.as_str(), request));
        assert!(*token > last);
        last = *token;
    }
}

#[test]
fn a_holder_that_is_gone_blocks_nobody() {
    let (mut world, ids) = at_work(3);
    let first = world.takes(&ids[0], "branch");
    world.queues(&ids[1], "w1", "branch", 300_000);
    world.queues(&ids[2], "w2", "branch", 300_000);
    // Its instance ends: with the attempt its claim does, in the same decision.
    let decision = world.crash(&ids[0]);
    let [(_, request, Ok(second))] = &told(&decision)[..] else {
        panic!("{decision:?}");
    };
    assert!(request == "w1" && *second > first);
    // Whoever has it then says nothing more: its time passes.
    let decision = world.pass(Duration::from_millis(TTL));
    let [(_, request, Ok(third))] = &told(&decision)[..] else {
        panic!("{decision:?}");
    };
    assert!(request == "w2" && third > second);
    let (reply, _) = world.ask(&ids[1], "r", op(ClaimOpKind::Renew, "branch", None));
    assert_eq!(reply.expect("an answer").code, Some(ClaimCode::NotHeld));
    world.succeed(&ids[2]);
    assert_eq!(world.tasks.claims().all().count(), 0, "nothing is left");
}

#[test]
fn a_wait_ends_at_its_time_also_where_two_wait_for_each_other() {
    let (mut world, ids) = at_work(2);
    world.takes(&ids[0], "a");
    world.takes(&ids[1], "b");
    world.queues(&ids[0], "wants b", "b", 5_000);
    world.queues(&ids[1], "wants a", "a", 9_000);
    let decision = world.pass(Duration::from_secs(5));
    let over = Err(ClaimCode::WaitOver);
    assert_eq!(
        told(&decision),
        [(ids[0].to_string(), "wants b".to_owned(), over)]
    );
}

#[test]
fn those_who_share_have_it_together_and_whoever_wants_it_alone_comes_in_its_turn() {
    let (mut world, ids) = at_work(5);
    let (first, _) = world.ask(&ids[0], "r", shared("x", None));
    let (second, _) = world.ask(&ids[1], "r", shared("x", None));
    assert!(second.expect("an answer").token > first.expect("an answer").token);
    let claim = world.tasks.claims().all().next().expect("a claim");
    assert_eq!((claim.mode, claim.others.len()), (ClaimMode::Shared, 1));
    world.queues(&ids[2], "writer", "x", 60_000);
    // A late reader stands behind it, though it could share now.
    let (reply, _) = world.ask(&ids[3], "r", shared("x", None));
    assert_eq!(reply.expect("an answer").code, Some(ClaimCode::Held));
    assert_eq!(
        world.ask(&ids[3], "late", shared("x", Some(60_000))).0,
        None
    );
    assert_eq!(
        world.ask(&ids[4], "later", shared("x", Some(60_000))).0,
        None
    );
    let detail = world.view(&ids[2]).waiting_for.expect("a wait").detail;
    assert!(detail.contains("and one other holds"), "{detail}");
    let release = || op(ClaimOpKind::Release, "x", None);
    assert!(told(&world.ask(&ids[0], "r", release()).1).is_empty());
    let decision = world.ask(&ids[1], "r", release()).1;
    assert_eq!(told(&decision)[0].1, "writer");
    let requests = |decision: &Decision| -> Vec<_> {
        told(decision)
            .into_iter()
            .map(|(_, request, _)| request)
            .collect()
    };
    let decision = world.ask(&ids[2], "r", release()).1;
    assert_eq!(requests(&decision), ["late", "later"], "both at once");
}

#[test]
fn who_shares_a_thing_does_not_get_it_alone_before_it_gives_it_back() {
    let (mut world, ids) = at_work(1);
    world.ask(&ids[0], "r", shared("x", None));
    let (reply, decision) = world.ask(&ids[0], "r", op(ClaimOpKind::Acquire, "x", Some(9)));
    assert_eq!(reply.expect("an answer").code, Some(ClaimCode::Invalid));
    assert!(decision.events.is_empty());
    // And what it has alone, it need not share.
    world.ask(&ids[0], "r", op(ClaimOpKind::Release, "x", None));
    let token = world.takes(&ids[0], "x");
    let (reply, _) = world.ask(&ids[0], "r", shared("x", None));
    assert_eq!(reply.expect("an answer").token, Some(token));
    let claim = world.tasks.claims().all().next().expect("a claim");
    assert_eq!(claim.mode, ClaimMode::Exclusive);
}

/// Every order in which four who want it alone or share it ask, and give it back.
#[test]
fn the_line_is_served_in_its_order_whoever_shares() {
    const ASK: usize = 4;
    for modes in 0..1_usize << ASK {
        for order in 0..24_usize {
            let (mut world, ids) = at_work(4);
            let alone = |who: usize| modes & (1 << who) != 0;
            let (mut held, mut line): (Vec<usize>, Vec<usize>) = (Vec::new(), Vec::new());
            for (who, id) in ids.iter().enumerate().take(ASK) {
                let mode = if alone(who) {
                    ClaimMode::Exclusive
                } else {
                    ClaimMode::Shared
                };
                let op = ClaimOp {
                    mode,
                    ..op(ClaimOpKind::Acquire, "x", Some(60_000))
                };
                let (reply, _) = world.ask(id, &who.to_string(), op);
                let free = held.is_empty() || (!alone(who) && held.iter().all(|one| !alone(*one)));
                let goes = line.is_empty() && free;
                assert_eq!(
                    reply.is_some(),
                    goes,
                    "{modes:b}: {who} after {held:?}, {line:?}"
                );
                if goes { held.push(who) } else { line.push(who) }
            }
            let mut pick = order;
            while !held.is_empty() {
                let who = held.remove(pick % held.len());
                pick /= 2;
                let decision = world
                    .ask(&ids[who], "r", op(ClaimOpKind::Release, "x", None))
                    .1;
                let mut served = Vec::new();
                while let Some(next) = line.first().copied() {
                    let shares = !alone(next) && held.iter().all(|one| !alone(*one));
                    if !held.is_empty() && !shares {
                        break;
                    }
                    line.remove(0);
                    held.push(next);
                    served.push(next.to_string());
                }
                let told: Vec<_> = told(&decision)
                    .into_iter()
                    .map(|(_, request, _)| request)
                    .collect();
                assert_eq!(told, served, "{modes:b}, {order}");
            }
            assert!(line.is_empty(), "nobody waits for ever");
        }
    }
}

#[test]
fn a_renewal_keeps_a_claim_and_a_token_of_another_does_not() {
    let (mut world, ids) = at_work(1);
    let token = world.takes(&ids[0], "file");
    world.now = world.now.plus(Duration::from_millis(TTL - 1));
    let wrong = ClaimOp {
        token: Some(token + 1),
        ..op(ClaimOpKind::Renew, "file", None)
    };
    let (reply, _) = world.ask(&ids[0], "r", wrong);
    assert_eq!(reply.expect("an answer").code, Some(ClaimCode::NotHeld));
    let (reply, _) = world.ask(&ids[0], "r", op(ClaimOpKind::Renew, "file", None));
    assert_eq!(reply.expect("an answer").token, Some(token));
    world.pass(Duration::from_millis(TTL - 1));
    assert_eq!(world.takes(&ids[0], "file"), token, "it is held still");
}

#[test]
fn who_asks_again_keeps_its_place_and_is_answered_once() {
    let (mut world, ids) = at_work(3);
    world.takes(&ids[0], "x");
    world.queues(&ids[1], "first", "x", 60_000);
    world.queues(&ids[2], "other", "x", 60_000);
    let again = op(ClaimOpKind::Acquire, "x", Some(60_000));
    let (reply, decision) = world.ask(&ids[1], "again", again);
    assert_eq!(reply, None);
    assert_eq!(told(&decision)[0].2, Err(ClaimCode::Superseded));
    let (_, decision) = world.ask(&ids[0], "r", op(ClaimOpKind::Release, "x", None));
    assert_eq!(told(&decision)[0].1, "again");
}

#[test]
fn a_request_that_is_said_again_is_no_news_while_it_waits_and_is_answered_when_it_does_not() {
    let (mut world, ids) = at_work(2);
    world.takes(&ids[0], "x");
    world.queues(&ids[1], "r1", "x", 60_000);
    let again = |ms| op(ClaimOpKind::Acquire, "x", Some(ms));
    let (reply, decision) = world.ask(&ids[1], "r1", again(59_000));
    assert_eq!((reply, decision.events.len()), (None, 0));
    let (_, decision) = world.ask(&ids[0], "r", op(ClaimOpKind::Release, "x", None));
    let granted = told(&decision)[0].2.expect("a grant");
    // The answer was lost: who asks again learns that it has it.
    let (reply, _) = world.ask(&ids[1], "r1", again(58_000));
    assert_eq!(reply.expect("an answer").token, Some(granted));
}

#[test]
fn bounds_and_names_are_refused_and_change_nothing() {
    let (mut world, ids) = at_work(1);
    for index in 0..CLAIMS_OF_TASK_MAX {
        world.takes(&ids[0], &format!("r{index}"));
    }
    let more = op(ClaimOpKind::Acquire, "one more", None);
    let (reply, decision) = world.ask(&ids[0], "r", more);
    assert_eq!(reply.expect("an answer").code, Some(ClaimCode::TooMany));
    assert!(decision.events.is_empty());
    let long = "x".repeat(257);
    for name in ["", " a", "a\n", long.as_str()] {
        let (reply, _) = world.ask(&ids[0], "r", op(ClaimOpKind::Acquire, name, None));
        let code = reply.expect("an answer").code;
        assert_eq!(code, Some(ClaimCode::Invalid), "{name:?}");
    }
    let endless = ClaimOp {
        ttl_ms: Some(mesh_messages::claim::CLAIM_TTL_MAX_MS + 1),
        ..op(ClaimOpKind::Renew, "r0", None)
    };
    let (reply, _) = world.ask(&ids[0], "r", endless);
    assert_eq!(reply.expect("an answer").code, Some(ClaimCode::Invalid));
}

#[test]
fn an_attempt_that_is_over_claims_nothing() {
    let (mut world, ids) = at_work(1);
    let (parent, key) = world.attempt(&ids[0]);
    world.fail(&ids[0], FailureClass::Refusal);
    let asker = Asker {
        parent,
        key,
        request: "late".to_owned(),
    };
    let op = Box::new(op(ClaimOpKind::Acquire, "file", None));
    let refusal = world.refused(Command::Claim { asker, op });
    assert!(matches!(refusal, Refusal::Stale(_)), "{refusal}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever attempts ask in whatever order, and whoever ends in between: what one has, it has alone, and each grant bears
    /// a higher token than all before it. Replay and snapshots are compared after every step by the world itself.
    #[test]
    fn one_holder_at_a_time_and_tokens_that_rise(
        steps in prop::collection::vec((0..5_usize, 0..6_u8, 0..3_u8, 1..90_000_u64), 1..80),
    ) {
        let (mut world, ids) = at_work(5);
        let mut last = 0;
        for (who, what, which, ms) in steps {
            let name = format!("r{which}");
            let under_way = world.tasks.record(&ids[who]).is_some_and(|r| r.attempt().is_some());
            let decision = match what {
                0 => world.pass(Duration::from_millis(ms)),
                _ if !under_way => continue,
                1 => world.crash(&ids[who]),
                _ => {
                    let kind = match what {
                        2 => ClaimOpKind::Release,
                        3 => ClaimOpKind::Renew,
                        _ => ClaimOpKind::Acquire,
                    };
                    let mode = if ms % 3 == 0 { ClaimMode::Exclusive } else { ClaimMode::Shared };
                    let op = ClaimOp { mode, ..op(kind, &name, (what == 4).then_some(ms)) };
                    world.ask(&ids[who], &format!("q{ms}"), op).1
                }
            };
            for (_, event) in &decision.events {
                if let TaskEvent::Claim { step: mesh_messages::claim::ClaimStep::Granted { token, .. }, .. } = event {
                    prop_assert!(*token > last, "{token} after {last}");
                    last = *token;
                }
            }
        }
    }
}
