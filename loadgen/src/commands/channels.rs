//! The commands that measure channels, the HTTP API and a lobby that others are in already.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};

use super::{dialect, merged, payload_on, plan, template, tokens};
use crate::args::{ApiArgs, ChannelsArgs, NewcomersArgs};
use crate::control::Requests;
use crate::protocol::Dialect;
use crate::random::Random;
use crate::report::Report;
use crate::run::{self, Times};
use crate::target::Target;
use crate::work::channels::Mode;
use crate::work::layout::Layout;
use crate::work::{api, channels, newcomers};

/// How long the server has to free what it needed for a burst, before its memory is looked at.
const REST: f64 = 1.5;

/// `loadgen channels`
pub fn channels(args: &ChannelsArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    template(&args.speak)?;
    let mut plan = plan(&args.place.common, &args.place.url, args.connections)?;
    plan.dialect = dialect(&args.speak, &args.place.auth, &plan)?.into();
    if let Some(lacking) = plan.dialect.lacks_channels(args.mode == Mode::Reply) {
        bail!("the protocol has no `{lacking}`");
    }
    let name = format!("{}{}", args.prefix, args.channels() / 2);
    let settings = channels::Settings {
        threads: plan.threads,
        mode: args.mode,
        each: args.each as usize,
        window: args.window,
        rate: args.span.rate,
        payload: payload_on(&args.speak, &plan.dialect, Some(&name), args.payload)?,
        run: Random::seeded().key(),
        sample_every: plan.connections.div_ceil(64),
    };
    let layout = Layout::new(plan.connections, settings.each, args.channels());
    let shared = channels::Shared::new(&settings, layout, Arc::clone(&plan.dialect), &args.prefix);
    let subscribing = args.mode == Mode::Subscribe;
    let times = Times {
        seconds: if subscribing { args.place.common.timeout } else { args.span.seconds },
        warmup: if subscribing { 0.0 } else { args.span.warmup },
        settle: if subscribing { REST } else { 0.0 },
        rest: subscribing.then_some(REST),
    };
    let measured = run::run(plan, times, args.place.common.pid, interrupted, |thread, slots| {
        channels::Channels::new(settings, Arc::clone(&shared), thread, slots)
    })?;
    let command = match args.mode {
        Mode::Publish => "channels",
        Mode::Reply => "replies",
        Mode::Subscribe => "subscribe",
    };
    let mut report = Report::new(command, &args.place.url, args.connections, &measured, false);
    for workload in &measured.workloads {
        report.faults += workload.faults();
        report.unsent += workload.unsent;
        report.stalls += workload.stalls;
        report.pushes += workload.pushes;
        report.examples.extend(workload.examples.iter().cloned());
    }
    report.examples.truncate(5);
    report.latency = merged(measured.workloads.iter().map(|w| &w.latencies)).percentiles();
    report.send_lag = merged(measured.workloads.iter().map(|w| &w.lag)).percentiles();
    report.subscriptions = u64::from(args.connections) * u64::from(args.each);
    if subscribing {
        let both = measured.memory.map(|(_, idle)| idle).zip(measured.memory_after);
        report.memory_each = both
            .map(|(before, after)| (after.private as f64 - before.private as f64) / report.subscriptions.max(1) as f64);
        report.pace = format!("{} connections subscribe at a time, {} requests each", args.window, args.each);
    } else {
        report.paced(args.span.rate, format!("window {}", args.window));
    }
    let (each, all, fanout) = (args.each, args.channels(), args.fanout);
    report.pace = format!("{each} of {all} channels each, fan-out {fanout}, {}", report.pace);
    Ok(report)
}

/// `loadgen api`
pub fn api(args: &ApiArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    template(&args.speak)?;
    let mut plan = plan(&args.place.common, &args.place.url, args.connections + args.subscribers)?;
    plan.dialect = dialect(&args.speak, &args.place.auth, &plan)?.into();
    let rest = args.api.strip_prefix("http://").context("--api: expected http://HOST:PORT")?;
    let target = Target::parse(&format!("ws://{rest}"))?;
    let channels = args.broadcast.unwrap_or(1) as usize;
    let names: Vec<String> = (0..channels).map(|channel| format!("{}{channel}", args.prefix)).collect();
    let key = args.key.as_deref();
    let request = match args.broadcast {
        Some(_) => plan.dialect.broadcast_request(&names, key),
        None => plan.dialect.publish_request(&names[0], key),
    };
    let request = request.context("the protocol has no request that publishes so")?;
    let settings = api::Settings {
        threads: plan.threads,
        subscribers: args.subscribers as usize,
        publishers: args.connections as usize,
        pipeline: args.pipeline,
        channels,
        idle: args.idle,
        payload: payload_on(&args.speak, &plan.dialect, Some(&names[channels / 2]), args.payload)?,
        run: Random::seeded().key(),
    };
    plan.requests = Some(Requests { target, from: settings.subscribers });
    let shared = api::Shared::new(&settings, Arc::clone(&plan.dialect), names, request);
    let times = if args.idle {
        Times { seconds: 0.05, warmup: 0.0, settle: args.settle, rest: None }
    } else {
        Times { seconds: args.span.seconds, warmup: args.span.warmup, settle: 0.0, rest: None }
    };
    let measured = run::run(plan, times, args.place.common.pid, interrupted, |thread, slots| {
        api::Api::new(settings, Arc::clone(&shared), thread, slots)
    })?;
    let command = match args.broadcast {
        _ if args.idle => "idle API",
        Some(_) => "broadcast",
        None => "api",
    };
    let mut report = Report::new(command, &args.api, args.connections + args.subscribers, &measured, args.idle);
    let mut deliveries = 0;
    for workload in &measured.workloads {
        report.faults += workload.faults();
        report.pushes += workload.pushes;
        deliveries += workload.deliveries;
        report.examples.extend(workload.examples.iter().cloned());
    }
    report.examples.truncate(5);
    report.latency = merged(measured.workloads.iter().map(|w| &w.latencies)).percentiles();
    report.notes.push(format!("{deliveries} publications reached the {} subscribers", args.subscribers));
    report.pace = format!("closed loop, {} connections, pipeline {}", args.connections, args.pipeline);
    Ok(report)
}

/// `loadgen newcomers`
pub fn newcomers(args: &NewcomersArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    let mut plan = plan(&args.place.common, &args.place.url, args.residents + args.newcomers)?;
    plan.dialect = Dialect::Uringcast(Some(tokens(&args.place.auth, &plan)?)).into();
    plan.later = args.newcomers as usize;
    let settings = newcomers::Settings {
        threads: plan.threads,
        residents: args.residents as usize,
        newcomers: args.newcomers as usize,
        at_a_time: (args.at_a_time as usize / plan.threads).max(1),
    };
    let arrived = newcomers::Arrived::default();
    let times = Times { seconds: args.within, warmup: 0.0, settle: 0.5, rest: None };
    let measured = run::run(plan, times, args.place.common.pid, interrupted, |thread, slots| {
        newcomers::Newcomers::new(settings, Arc::clone(&arrived), thread, slots)
    })?;
    let mut report = Report::new("newcomers", &args.place.url, args.residents, &measured, false);
    let mut digests = 0;
    for workload in &measured.workloads {
        report.faults += workload.faults();
        report.pushes += workload.events;
        digests += workload.digests;
    }
    report.latency = measured.returned.percentiles();
    report.notes.push(format!("{digests} of the announcements were digests"));
    report
        .notes
        .push("the CPU includes telling everyone, until the last resident knew of the last newcomer".to_owned());
    report.pace =
        format!("{} sign in beside {} who are there, {} at a time", args.newcomers, args.residents, args.at_a_time);
    Ok(report)
}
