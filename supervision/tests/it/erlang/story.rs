//! Random histories of a supervisor.

use std::fmt;

use mesh_supervision::{AutoShutdown, ChildSpec, Flags, Restart, Shutdown, Strategy};
use proptest::{collection::vec, prelude::*, strategy::Strategy as Generator};

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// How a child ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Normal,
    Shutdown,
    Remark,
    Crash,
    Kill,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Boot,
    Stop,
    Add(ChildSpec),
    Start(String),
    Terminate(String),
    Delete(String),
    Exit(How, String),
    Both(String, String),
    Fail(u32, String),
    Ignore(u32, String),
    Change(Flags, Vec<ChildSpec>),
    /// A boot or the restart of a group, in which a child leaves while another one is being started.
    Meanwhile(Meanwhile),
}

#[derive(Debug, Clone)]
pub(super) struct Meanwhile {
    pub(super) how: How,
    /// Not a permanent one, for that would be a crash.
    pub(super) leaves: String,
    pub(super) starting: String,
    pub(super) cause: Cause,
}

/// Why children are started.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    Boot,
    /// This one is killed.
    Kill(String),
}

#[derive(Debug, Clone)]
pub(super) struct Story {
    pub(super) flags: Flags,
    /// The first children; for a pool, the one that all members are like.
    pub(super) children: Vec<ChildSpec>,
    pub(super) steps: Vec<Step>,
}

/// The flags, as the oracle reads them.
pub(super) fn flags_text(flags: &Flags) -> String {
    let strategy = match flags.strategy {
        Strategy::OneForOne => "one_for_one",
        Strategy::OneForAll => "one_for_all",
        Strategy::RestForOne => "rest_for_one",
        Strategy::Dynamic => "simple_one_for_one",
    };
    let auto = match flags.auto_shutdown {
        AutoShutdown::Never => "never",
        AutoShutdown::AnySignificant => "any_significant",
        AutoShutdown::AllSignificant => "all_significant",
    };
    format!("{strategy} {} {auto}", flags.intensity)
}

/// A spec, as the oracle reads it.
pub(super) fn spec_text(spec: &ChildSpec) -> String {
    let restart = match spec.restart {
        Restart::Permanent => "permanent",
        Restart::Transient => "transient",
        Restart::Temporary => "temporary",
    };
    let significant = if spec.significant {
        "significant"
    } else {
        "ordinary"
    };
    let shutdown = match spec.shutdown {
        Shutdown::BrutalKill => "brutal_kill",
        Shutdown::Timeout(_) => "timeout",
        Shutdown::Infinity => "infinity",
    };
    format!("{} {restart} {significant} {shutdown}", spec.id)
}

/// A step, as the oracle reads it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boot => f.write_str("boot"),
            Self::Stop => f.write_str("stop"),
            Self::Add(spec) => write!(f, "add {}", spec_text(spec)),
            Self::Start(id) => write!(f, "start {id}"),
            Self::Terminate(id) => write!(f, "terminate {id}"),
            Self::Delete(id) => write!(f, "delete {id}"),
            Self::Exit(how, id) => {
                write!(f, "exit {} {id}", format!("{how:?}").to_lowercase())
            }
            Self::Both(one, two) => write!(f, "both {one} {two}"),
            Self::Fail(n, id) => write!(f, "fail {n} {id}"),
            Self::Ignore(n, id) => write!(f, "ignore {n} {id}"),
            Self::Change(flags, children) => {
                for child in children {
                    writeln!(f, "child {}", spec_text(child))?;
                }
                write!(f, "change {}", flags_text(flags))
            }
            Self::Meanwhile(Meanwhile {
                how,
                leaves,
                starting,
                cause,
            }) => {
                let how = format!("{how:?}").to_lowercase();
                write!(f, "meanwhile {how} {leaves} {starting} ")?;
                match cause {
                    Cause::Boot => f.write_str("boot"),
                    Cause::Kill(id) => write!(f, "exit kill {id}"),
                }
            }
        }
    }
}

fn one_of(ids: &'static [&'static str]) -> impl Generator<Value = String> {
    prop::sample::select(ids).prop_map(ToOwned::to_owned)
}

fn id() -> impl Generator<Value = String> {
    one_of(&IDS)
}

fn how() -> impl Generator<Value = How> {
    prop_oneof![
        2 => Just(How::Crash),
        2 => Just(How::Kill),
        2 => Just(How::Normal),
        1 => Just(How::Shutdown),
        1 => Just(How::Remark),
    ]
}

/// Any spec, also such as are refused.
fn spec(id: impl Generator<Value = String>) -> impl Generator<Value = ChildSpec> {
    let restart = prop_oneof![
        3 => Just(Restart::Permanent),
        2 => Just(Restart::Transient),
        2 => Just(Restart::Temporary),
    ];
    let shutdown = prop_oneof![
        2 => Just(Shutdown::WORKER),
        1 => Just(Shutdown::BrutalKill),
        1 => Just(Shutdown::Infinity),
    ];
    (id, restart, prop::bool::weighted(0.15), shutdown).prop_map(
        |(id, restart, significant, shutdown)| ChildSpec {
            restart,
            significant,
            shutdown,
            ..ChildSpec::worker(id)
        },
    )
}

/// A list of specs of different ids, most of which fit the flags.
fn specs(flags: Flags) -> impl Generator<Value = Vec<ChildSpec>> {
    (
        prop::sample::subsequence(&IDS[..], 0..=5).prop_shuffle(),
        prop::bool::weighted(0.9),
    )
        .prop_flat_map(|(ids, fit)| {
            let specs: Vec<_> = ids
                .into_iter()
                .map(|id| spec(Just(id.to_owned())))
                .collect();
            (specs, Just(fit))
        })
        .prop_map(move |(mut specs, fit)| {
            for spec in &mut specs {
                if fit && flags.check_spec(spec).is_err() {
                    spec.significant = false;
                }
            }
            specs
        })
}

fn flags(strategies: &'static [Strategy]) -> impl Generator<Value = Flags> {
    let auto = prop_oneof![
        2 => Just(AutoShutdown::Never),
        1 => Just(AutoShutdown::AnySignificant),
        1 => Just(AutoShutdown::AllSignificant),
    ];
    let intensity = prop::sample::select(&[0, 1, 2, 3, 200][..]);
    (prop::sample::select(strategies), intensity, auto).prop_map(
        |(strategy, intensity, auto_shutdown)| Flags {
            strategy,
            intensity,
            auto_shutdown,
            // Nothing leaves the window, whatever the speed of the machine.
            period: std::time::Duration::from_hours(1),
            ..Flags::default()
        },
    )
}

const GROUPS: &[Strategy] = &[
    Strategy::OneForOne,
    Strategy::OneForAll,
    Strategy::RestForOne,
];

fn group_step() -> impl Generator<Value = Step> {
    prop_oneof![
        8 => (how(), id()).prop_map(|(how, id)| Step::Exit(how, id)),
        3 => (id(), id()).prop_map(|(one, two)| Step::Both(one, two)),
        2 => meanwhile(&IDS, id().prop_map(Cause::Kill)),
        2 => spec(id()).prop_map(Step::Add),
        2 => id().prop_map(Step::Start),
        2 => id().prop_map(Step::Terminate),
        1 => id().prop_map(Step::Delete),
        3 => (1..3_u32, id()).prop_map(|(n, id)| Step::Fail(n, id)),
        1 => (1..3_u32, id()).prop_map(|(n, id)| Step::Ignore(n, id)),
        1 => flags(GROUPS)
            .prop_flat_map(|flags| (Just(flags), specs(flags)))
            .prop_map(|(flags, specs)| Step::Change(flags, specs)),
    ]
}

fn meanwhile(
    ids: &'static [&'static str],
    cause: impl Generator<Value = Cause>,
) -> impl Generator<Value = Step> {
    let how = prop::sample::select(&[How::Normal, How::Shutdown, How::Remark][..]);
    (how, one_of(ids), one_of(ids), cause).prop_map(|(how, leaves, starting, cause)| {
        Step::Meanwhile(Meanwhile {
            how,
            leaves,
            starting,
            cause,
        })
    })
}

fn boot(ids: &'static [&'static str]) -> impl Generator<Value = Step> {
    prop_oneof![
        2 => Just(Step::Boot),
        1 => meanwhile(ids, Just(Cause::Boot)),
    ]
}

/// What may be said before the boot.
fn prelude() -> impl Generator<Value = Vec<Step>> {
    let fail = (1..2_u32, id()).prop_map(|(n, id)| Step::Fail(n, id));
    let ignore = (1..2_u32, id()).prop_map(|(n, id)| Step::Ignore(n, id));
    prop_oneof![
        6 => Just(Vec::new()),
        1 => fail.prop_map(|step| vec![step]),
        2 => ignore.prop_map(|step| vec![step]),
    ]
}

/// A history of children that have ids.
pub(super) fn group_story() -> impl Generator<Value = Story> {
    flags(GROUPS)
        .prop_flat_map(|flags| {
            (
                Just(flags),
                specs(flags),
                (prelude(), boot(&IDS)),
                vec(group_step(), 0..24),
            )
        })
        .prop_map(|(flags, children, (mut steps, boot), then)| {
            steps.push(boot);
            steps.extend(then);
            steps.push(Step::Stop);
            Story {
                flags,
                children,
                steps,
            }
        })
}

/// A history of a few children most of whom are significant, and leave at any time.
pub(super) fn significant_story() -> impl Generator<Value = Story> {
    const FEW: [&str; 3] = ["a", "b", "c"];
    let auto = [AutoShutdown::AnySignificant, AutoShutdown::AllSignificant];
    let flags = (
        prop::sample::select(&GROUPS[1..]),
        prop::sample::select(auto.to_vec()),
    )
        .prop_map(|(strategy, auto_shutdown)| Flags {
            strategy,
            auto_shutdown,
            intensity: 200,
            period: std::time::Duration::from_hours(1),
            ..Flags::default()
        });
    let children = FEW.map(|id| {
        let kinds = [
            (Restart::Permanent, false),
            (Restart::Transient, true),
            (Restart::Transient, true),
            (Restart::Temporary, true),
        ];
        prop::sample::select(kinds.to_vec()).prop_map(move |(restart, significant)| ChildSpec {
            restart,
            significant,
            ..ChildSpec::worker(id)
        })
    });
    let step = prop_oneof![
        4 => meanwhile(&FEW, one_of(&FEW).prop_map(Cause::Kill)),
        1 => (how(), one_of(&FEW)).prop_map(|(how, id)| Step::Exit(how, id)),
        1 => one_of(&FEW).prop_map(Step::Start),
        1 => one_of(&FEW).prop_map(Step::Terminate),
        1 => (1..3_u32, one_of(&FEW)).prop_map(|(n, id)| Step::Fail(n, id)),
        1 => (1..3_u32, one_of(&FEW)).prop_map(|(n, id)| Step::Ignore(n, id)),
    ];
    (flags, children, boot(&FEW), vec(step, 0..16)).prop_map(|(flags, children, boot, then)| {
        Story {
            flags,
            children: children.into(),
            steps: [vec![boot], then, vec![Step::Stop]].concat(),
        }
    })
}

/// A history of a pool. Its members have no ids in Erlang, so each addition brings a new one.
pub(super) fn pool_story() -> impl Generator<Value = Story> {
    #[derive(Debug, Clone)]
    enum Doing {
        Add,
        Exit(How, usize),
        Terminate(usize),
        Fail(u32, usize),
    }
    let doing = prop_oneof![
        4 => Just(Doing::Add),
        4 => (how(), 0..6_usize).prop_map(|(how, n)| Doing::Exit(how, n)),
        2 => (0..6_usize).prop_map(Doing::Terminate),
        1 => (1..3_u32, 0..6_usize).prop_map(|(n, id)| Doing::Fail(n, id)),
    ];
    let template = spec(Just("member".to_owned()));
    (flags(&[Strategy::Dynamic]), template, vec(doing, 0..24)).prop_map(
        |(flags, mut template, doings)| {
            if flags.check_spec(&template).is_err() {
                template.significant = false;
            }
            let mut steps = vec![Step::Boot];
            let mut added = 0;
            for doing in doings {
                let id = |n: usize| format!("m{n}");
                steps.push(match doing {
                    Doing::Add => {
                        added += 1;
                        Step::Add(ChildSpec {
                            id: id(added - 1).into(),
                            ..template.clone()
                        })
                    }
                    Doing::Exit(how, n) => Step::Exit(how, id(n)),
                    Doing::Terminate(n) => Step::Terminate(id(n)),
                    Doing::Fail(times, n) => Step::Fail(times, id(n)),
                });
            }
            steps.push(Step::Stop);
            Story {
                flags,
                children: vec![template],
                steps,
            }
        },
    )
}
