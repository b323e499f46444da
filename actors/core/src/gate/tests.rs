use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn a_hit(began_at: Timestamp, retry_after: Option<Duration>) -> Hit {
    Hit {
        account: "provider:acme".to_owned(),
        agent: AgentId::new("a").unwrap(),
        task: TaskId::new("t").unwrap(),
        began_at,
        retry_after,
        reason: "429 Too Many Requests".to_owned(),
        at_work: 8,
    }
}

fn closed(retry_after: Option<Duration>, random: u64) -> ProviderGate {
    hit(None, &a_hit(START, retry_after), START, random).unwrap()
}

fn wait(gate: &ProviderGate) -> Duration {
    gate.until.since(gate.since)
}

#[test]
fn what_the_provider_says_is_believed_within_bounds_and_never_cut_short() {
    for (said, least) in [
        (Duration::ZERO, RETRY_AFTER_MIN),
        (Duration::from_secs(20), Duration::from_secs(20)),
        (Duration::from_hours(24 * 365), RETRY_AFTER_MAX),
    ] {
        for random in [0, 1, 4_999, u64::MAX] {
            let gate = closed(Some(said), random);
            let most = least + (least / 4).min(GATE_SPREAD_MAX);
            assert!(
                (least..=most).contains(&wait(&gate)),
                "{said:?}: {:?}",
                wait(&gate)
            );
        }
    }
}

#[test]
fn without_a_word_the_waits_double_up_to_a_bound() {
    let mut gate = closed(None, 0);
    let mut waits = vec![wait(&gate).as_secs()];
    for _ in 0..9 {
        let opened = step(&gate, gate.until, 0).unwrap();
        assert_eq!((opened.state, opened.permits), (GateState::Ramping, 1));
        gate = hit(
            Some(&opened),
            &a_hit(opened.since, None),
            opened.since.plus(Duration::from_millis(20)),
            0,
        )
        .unwrap();
        waits.push(wait(&gate).as_secs());
    }
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]);
}

#[test]
fn a_provider_that_promised_too_much_is_asked_more_and_more_seldom() {
    let second = Some(Duration::from_secs(1));
    let mut gate = closed(second, 0);
    let mut waits = vec![wait(&gate).as_secs()];
    for _ in 0..4 {
        let opened = step(&gate, gate.until, 0).unwrap();
        gate = hit(Some(&opened), &a_hit(opened.since, second), opened.since, 0).unwrap();
        waits.push(wait(&gate).as_secs());
    }
    assert_eq!(waits, [1, 5, 10, 20, 40]);
}

#[test]
fn what_was_under_way_is_no_further_strike_and_may_only_put_the_opening_off() {
    let gate = closed(Some(Duration::from_secs(10)), 0);
    let at = gate.since.plus(Duration::from_secs(1));
    for late in [None, Some(Duration::from_secs(2))] {
        assert_eq!(hit(Some(&gate), &a_hit(START, late), at, 0), None);
    }
    let later = Some(Duration::from_mins(5));
    let put_off = hit(Some(&gate), &a_hit(START, later), at, 0).unwrap();
    assert_eq!((put_off.strikes, put_off.since), (1, gate.since));
    assert_eq!(put_off.until, at.plus(Duration::from_mins(5)));
    // It answers only after the gate has begun to open.
    let opened = step(&gate, gate.until, 0).unwrap();
    let straggler = hit(Some(&opened), &a_hit(START, None), opened.since, 0).unwrap();
    assert_eq!((straggler.state, straggler.strikes), (GateState::Closed, 1));
}

#[test]
fn it_opens_by_one_then_by_successes_and_by_time_until_all_fit() {
    let gate = closed(None, 0);
    assert_eq!(step(&gate, Timestamp::from_millis(0), 0), None);
    let opened = step(&gate, gate.until, 0).unwrap();
    let now = opened.since;
    assert_eq!(
        passed(&opened, START, now),
        None,
        "it began before the gate opened"
    );
    let mut widening = opened.clone();
    for permits in 2..=8 {
        widening = passed(&widening, now, now).unwrap();
        assert_eq!(
            (widening.state, widening.permits),
            (GateState::Ramping, permits)
        );
    }
    assert_eq!(passed(&widening, now, now).unwrap().state, GateState::Open);
    let mut widening = opened;
    for permits in [2, 4, 8] {
        widening = step(&widening, widening.until, 3).unwrap();
        assert_eq!(
            (widening.state, widening.permits),
            (GateState::Ramping, permits)
        );
    }
    assert_eq!(
        step(&widening, widening.until, 3).unwrap().state,
        GateState::Open
    );
}

#[test]
fn a_providers_text_is_cut_at_a_letter() {
    let mut long = a_hit(START, None);
    long.reason = "ä".repeat(GATE_REASON_BYTES_MAX);
    let gate = hit(None, &long, START, 0).unwrap();
    assert!(gate.reason.len() <= GATE_REASON_BYTES_MAX);
}

proptest! {
    /// Whatever providers answer and however late, a gate always has a next step within the bounds, and without further
    /// refusals it opens.
    #[test]
    fn every_gate_opens(
        hits in prop::collection::vec((any::<u64>(), prop::option::of(0_u64..10_000_000_000), 0_u64..1_000_000, any::<bool>()), 1..40),
        at_work in 1_u32..5000,
    ) {
        let mut gates = Gates::default();
        let mut now = START;
        for (random, said, pass, old) in hits {
            now = now.plus(Duration::from_millis(pass));
            while let Some(due) = gates.first_due(now).cloned() {
                gates.put(&step(&due, now, random).expect("what is due takes a step"));
            }
            let began = if old { START } else { now };
            let of = Hit { at_work, ..a_hit(began, said.map(Duration::from_millis)) };
            if let Some(gate) = hit(gates.get("provider:acme"), &of, now, random) {
                let longest = RETRY_AFTER_MAX.max(GATE_PAUSE_MAX) + GATE_SPREAD_MAX;
                prop_assert!(gate.until > now && gate.until <= now.plus(longest));
                gates.put(&gate);
            }
        }
        let mut steps = 0;
        while let Some(at) = gates.next_timer() {
            let due = gates.first_due(at).cloned().expect("a timer is due");
            let next = step(&due, at, 1).expect("what is due takes a step");
            prop_assert!(next.state == GateState::Open || next.until > at);
            gates.put(&next);
            steps += 1;
            prop_assert!(steps <= 15, "at most one step per doubling");
        }
    }
}
