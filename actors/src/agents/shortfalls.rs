//! What this machine's sandboxes lack, said once at the start.

use mesh_sandbox::{
    Execution, Ids, Limits, Narrowed, NetworkAccess, Probe, Program, SandboxSpec, TempAccess, plan,
};

use crate::context::{Context, Settings};

/// Says which controls are weaker than agents ask for by default, or that none could start.
pub(crate) fn say(ctx: &Context) {
    let probe = ctx.launcher.probe();
    let spec = usual(&ctx.settings, probe);
    match plan(&spec, probe, &ctx.settings.sandbox) {
        Err(refused) => {
            let refused: &dyn std::error::Error = &refused;
            tracing::warn!(
                error = refused,
                "no agent can start on this machine as it is; see meshd doctor"
            );
        }
        Ok(plan) => {
            let degraded = plan.report().degraded.iter();
            let degraded: Vec<&str> = degraded.map(|one| one.name()).collect();
            let controls = degraded.join(", ");
            if degraded.is_empty() {
                tracing::debug!("every control of the sandbox is the kernel's");
            } else if probe.root {
                tracing::info!(%controls, "these controls of the sandbox are weaker than asked for; see meshd doctor");
            } else {
                tracing::warn!(
                    %controls,
                    "these controls of the sandbox are weaker than asked for on this machine, as sandbox.degradable lets them; \
                     see meshd doctor"
                );
            }
        }
    }
}

/// The sandbox of an agent whose manifest says nothing but that it reaches out.
fn usual(settings: &Settings, probe: &Probe) -> SandboxSpec {
    let limits = &settings.limits;
    let uid = settings.uids.0;
    SandboxSpec {
        label: "start".to_owned(),
        run_id: settings.run_id.clone(),
        name: "start".to_owned(),
        program: Program::Image,
        args: Vec::new(),
        env: std::collections::BTreeMap::new(),
        workdir: None,
        bundle: None,
        home: settings.data.join("home"),
        home_form: probe.new_home(settings.home_images, settings.data.join("home/images")),
        state: settings.data.clone(),
        allowed_paths: Vec::new(),
        runtime_paths: Vec::new(),
        temp: TempAccess::Private,
        execution: Execution::Anything,
        narrowed: Narrowed::default(),
        network: NetworkAccess::Proxy,
        secrets: Vec::new(),
        limits: Limits {
            cpu_millicores: Some(limits.cpu_millicores),
            memory_bytes: Some(limits.memory_bytes),
            pids: Some(limits.pids),
            nofile: Some(limits.nofile),
            disk_bytes: Some(limits.disk_bytes),
            io_bytes_per_second: limits.io_bytes_per_second,
        },
        ids: probe.root.then_some(Ids { uid, gid: uid }),
    }
}
