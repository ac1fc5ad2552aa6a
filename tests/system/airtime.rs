//! Airtime: what crosses a link is what may, and when it may; a person's word holds; a box that
//! loses one uplink goes on over another.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::time::Duration;

use kit::phantom::{Instance, Phantom};
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{World, WorldConfig, words};
use serde_json::Value;
use study::StudyUid;

use crate::clocks::{faked, set};
use crate::counts::repeated_in_all;
use crate::programs;

const DEADLINE: Duration = Duration::from_secs(120);
const HOUR_MS: u64 = 3_600_000;

/// A box with these uplinks behind a link of so many kbit/s.
fn world(kbit: u32, uplinks: &str) -> World {
    start(kbit, uplinks, |_| {})
}

fn start(kbit: u32, uplinks: &str, change: impl FnOnce(&mut WorldConfig)) -> World {
    let mut config = WorldConfig::on(Profile::steady(kbit, kbit, 50, 0.01));
    config.agent_file = Some(uplinks.to_owned());
    change(&mut config);
    World::start(programs(), config).unwrap()
}

/// Gives the box a study of so many slices.
fn scan(world: &mut World, seed: u64, slices: u16) -> (StudyUid, Vec<Instance>) {
    let phantom = Phantom {
        seed,
        slices,
        side: 256,
    };
    let (study, instances) = (phantom.study(), phantom.instances());
    let sending = world.modality().unwrap().send(&instances);
    sending.complete(instances.len()).unwrap();
    (study, instances)
}

fn say(world: &World, said: &[&str]) -> Value {
    let args = ["link"].iter().chain(said).map(Into::into);
    world.agent_command(args).unwrap().success().unwrap();
    let list = words(["link", "list", "--json"], []);
    world.agent_command(list).unwrap().json().unwrap()
}

fn make_stat(world: &World, study: &StudyUid) {
    let args = words(["priority", study.as_str(), "stat"], []);
    world.agent_command(args).unwrap().success().unwrap();
}

/// Waits until the box gives this reason for a study that does not move.
fn halts(world: &World, study: &StudyUid, reason: &str) -> Value {
    let mut last = Value::Null;
    until(DEADLINE, reason, || {
        last = world.study_at_agent(study).ok()??;
        (last["why"]["reason"] == reason).then(|| last.clone())
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last}"))
}

fn is_at_hub(world: &World, study: &StudyUid) {
    world
        .wait_at_agent(study, "custody", "at_hub", DEADLINE)
        .unwrap();
}

/// Bytes that crossed both ways, as the link counts them.
fn crossed(world: &mut World) -> u64 {
    let counters = world.relay().counters().unwrap();
    counters.up.delivered_bytes + counters.down.delivered_bytes
}

/// The same, once nothing is on its way any more.
fn crossed_in_all(world: &mut World) -> u64 {
    let (mut last, mut same) = (0, 0);
    until(DEADLINE, "the link to be empty", || {
        let now = crossed(world);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same >= 10).then_some(now)
    })
    .unwrap()
}

fn is_up(world: &World) {
    until(DEADLINE, "a contact", || {
        let status = world.agent_status().ok()?;
        (status["link"]["connected"] == true).then_some(())
    })
    .unwrap();
}

fn hangs_up(world: &World) {
    until(DEADLINE, "the end of the contact", || {
        let status = world.agent_status().ok()?;
        (status["link"]["connected"] == false).then_some(())
    })
    .unwrap();
}

fn hours_from_now(hours: u64) -> String {
    let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let hour = (u64::try_from(now_ms).unwrap() / HOUR_MS + hours) % 24;
    format!("{hour:02}:00")
}

/// A moment of a contact plan, so many seconds from now.
fn seconds_from_now(seconds: u64) -> String {
    let now_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    let ms = u64::try_from(now_ms).unwrap() + seconds * 1000;
    let clock = identity::calendar::format_utc(ms);
    let (date, time) = clock.split_once(' ').unwrap();
    let minute = time.trim_end_matches(" UTC");
    format!("{date}T{minute}:{:02}Z", ms / 1000 % 60)
}

#[test]
#[ignore = "needs libfaketime"]
fn a_budget_that_is_used_up_lets_stat_through_and_the_rest_goes_on_the_next_day() {
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("box");
    set(&clock, "2026-11-22 12:00:00");
    let uplinks = "[[uplinks]]\nname = \"bgan\"\nmetered = true\nbudget-day = \"900 KiB\"\n\
                   reserve-percent = 25\ncost-per-mib = \"4\"\ncurrency = \"EUR\"\n";
    let mut world = start(1000, uplinks, |config| {
        config.agent_env.extend(faked(&clock))
    });
    let (routine, slices) = scan(&mut world, 1, 32);
    let view = halts(&world, &routine, "budget_reserved");
    assert_ne!(view["custody"], "at_hub", "{view}");
    assert!(view["percent_at_hub"].as_u64().unwrap() > 20, "{view}");

    let (urgent, few) = scan(&mut world, 2, 2);
    make_stat(&world, &urgent);
    is_at_hub(&world, &urgent);
    world.hub_has_exactly(&few).unwrap();
    halts(&world, &routine, "budget_reserved");

    // What was used is not forgotten by a crash, and is what the link saw.
    hangs_up(&world);
    world.take_agent().unwrap().kill().unwrap();
    let seen = crossed(&mut world);
    world.start_agent().unwrap();
    halts(&world, &routine, "budget_reserved");
    let status = world.agent_status().unwrap();
    let day = &status["uplinks"][0]["day"];
    let used = day["bytes"].as_u64().unwrap();
    assert!(
        (seen..=900 << 10).contains(&used),
        "{used} counted, {seen} crossed"
    );
    assert_ne!(day["money"], "0", "{day}");

    // The clock goes back: that is no new day.
    assert!(world.take_agent().unwrap().stop().unwrap().success());
    set(&clock, "2026-11-21 12:00:00");
    world.start_agent().unwrap();
    halts(&world, &routine, "budget_reserved");

    assert!(world.take_agent().unwrap().stop().unwrap().success());
    set(&clock, "2026-11-23 08:00:00");
    world.start_agent().unwrap();
    is_at_hub(&world, &routine);
    world.hub_has_exactly(&slices).unwrap();
    assert_eq!(repeated_in_all(&mut world), Some(0));
}

#[test]
fn outside_its_hours_an_uplink_carries_stat_and_new_settings_need_no_new_start() {
    let (from, to) = (hours_from_now(2), hours_from_now(4));
    let uplinks = format!(
        "[[uplinks]]\nname = \"night\"\nwindows = [\"{from}-{to}\"]\noutside-windows = \"stat\"\n"
    );
    let mut world = world(4000, &uplinks);
    let (study, slices) = scan(&mut world, 1, 8);
    let view = halts(&world, &study, "outside_window");
    assert!(view["why"]["until_ms"].is_u64(), "{view}");
    assert_eq!(view["bytes_at_hub"], 0, "{view}");

    let (urgent, _) = scan(&mut world, 2, 2);
    make_stat(&world, &urgent);
    is_at_hub(&world, &urgent);
    halts(&world, &study, "outside_window");

    world
        .write_agent_file("[[uplinks]]\nname = \"night\"\n")
        .unwrap();
    say(&world, &["reload"]);
    is_at_hub(&world, &study);
    world.hub_has_exactly(&slices).unwrap();
    // What cannot be read changes nothing.
    world
        .write_agent_file("[[uplinks]]\nname = \"\"\n")
        .unwrap();
    let reload = world.agent_command(words(["link", "reload"], [])).unwrap();
    let complaint = reload.failure(1).unwrap();
    assert!(complaint.contains("a-z"), "{complaint}");
}

#[test]
fn a_pause_holds_over_a_crash_and_is_lifted_by_a_person_alone() {
    let mut world = world(4000, "");
    let (first, _) = scan(&mut world, 1, 2);
    is_at_hub(&world, &first);
    let said = say(&world, &["pause"]);
    assert_eq!(said["pause"], "all");
    hangs_up(&world);
    world.take_agent().unwrap().kill().unwrap();
    let before = crossed_in_all(&mut world);
    world.start_agent().unwrap();
    let (study, slices) = scan(&mut world, 2, 8);
    make_stat(&world, &study);
    halts(&world, &study, "paused");
    assert_eq!(crossed(&mut world), before, "bytes in a pause");

    say(&world, &["pause", "--except-stat"]);
    is_at_hub(&world, &study);
    world.hub_has_exactly(&slices).unwrap();
    let (routine, slices) = scan(&mut world, 3, 8);
    halts(&world, &routine, "paused_except_stat");
    let view = world.study_at_agent(&routine).unwrap().unwrap();
    assert_eq!(view["bytes_at_hub"], 0, "{view}");

    // A box that does not run is told all the same.
    assert!(world.take_agent().unwrap().stop().unwrap().success());
    let resumed = world.agent_command(words(["link", "resume"], [])).unwrap();
    resumed.success().unwrap();
    world.start_agent().unwrap();
    is_at_hub(&world, &routine);
    world.hub_has_exactly(&slices).unwrap();
}

#[test]
fn a_contact_plan_is_kept_to_and_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("passes");
    let passes = |spans: &[(u64, u64)]| {
        let pass = |(from, to)| format!("{} {}\n", seconds_from_now(from), seconds_from_now(to));
        let text: String = spans.iter().copied().map(pass).collect();
        let next = plan.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &plan).unwrap();
    };
    // One to join the fleet in, before anything waits.
    passes(&[(0, 15), (5000, 6000)]);
    let uplinks = format!(
        "[[uplinks]]\nname = \"leo\"\nguard = \"1s\"\ncontact-plan = \"{}\"\n",
        plan.display()
    );
    let mut world = world(200, &uplinks);
    is_up(&world);
    hangs_up(&world);
    let (study, slices) = scan(&mut world, 1, 40);
    let is_packed = |view: &Value| view["bytes_to_cross"].as_u64().unwrap() > 800_000;
    until(DEADLINE, "all to be packed", || {
        world.study_at_agent(&study).ok()?.filter(is_packed)
    })
    .unwrap();
    let view = halts(&world, &study, "waiting_for_contact");
    assert!(view["why"]["at_ms"].is_u64(), "{view}");
    assert_eq!(view["bytes_at_hub"], 0, "{view}");

    passes(&[(12, 36)]);
    until(DEADLINE, "a part to cross in the pass", || {
        let view = world.study_at_agent(&study).ok()??;
        (view["percent_at_hub"].as_u64()? > 10).then_some(())
    })
    .unwrap();
    let view = halts(&world, &study, "waiting_for_contact");
    assert_ne!(view["custody"], "at_hub", "{view}");
    assert_eq!(view["why"]["at_ms"], Value::Null, "{view}");

    passes(&[(2, 300)]);
    is_at_hub(&world, &study);
    world.hub_has_exactly(&slices).unwrap();
    assert_eq!(repeated_in_all(&mut world), Some(0));
}

#[test]
fn an_uplink_that_dies_in_mid_transfer_is_left_for_another_and_nothing_goes_twice() {
    let [first, second] = [2, 3].map(|last| IpAddr::from(Ipv4Addr::new(127, 0, 0, last)));
    let uplinks = format!(
        "[[uplinks]]\nname = \"vsat\"\nsource = \"{first}\"\npriority = 1\n\
         [[uplinks]]\nname = \"mobile\"\nsource = \"{second}\"\npriority = 2\n"
    );
    let mut world = world(1000, &uplinks);
    let (study, slices) = scan(&mut world, 1, 32);
    let in_use = |world: &World| {
        let status = world.agent_status().ok()?;
        let uplinks = status["uplinks"].as_array()?.clone();
        let name = uplinks.iter().find(|uplink| uplink["in_use"] == true)?["name"].clone();
        name.as_str().map(str::to_owned)
    };
    until(DEADLINE, "the transfer to get on", || {
        let view = world.study_at_agent(&study).ok()??;
        (view["percent_at_hub"].as_u64()? >= 30).then_some(())
    })
    .unwrap();
    // Most likely the better one, if no contact has ended before.
    let begun = in_use(&world).unwrap();
    let (dying, other, place) = match begun.as_str() {
        "vsat" => ("vsat", "mobile", first),
        _ => ("mobile", "vsat", second),
    };
    let pid = world.agent().unwrap().pid();
    world.relay().mute(place, true).unwrap();
    is_at_hub(&world, &study);
    world.hub_has_exactly(&slices).unwrap();
    assert_eq!(in_use(&world).as_deref(), Some(other));
    assert_eq!(world.agent().unwrap().pid(), pid);

    // A person wants the other one; it works again.
    world.relay().mute(place, false).unwrap();
    say(&world, &["use", dying]);
    until(DEADLINE, "the other uplink", || {
        (in_use(&world)? == dying).then_some(())
    })
    .unwrap();
    let unknown = world
        .agent_command(words(["link", "use", "fax"], []))
        .unwrap();
    assert!(unknown.failure(1).unwrap().contains("no uplink `fax`"));
    assert_eq!(repeated_in_all(&mut world), Some(0));
}

#[test]
fn the_time_that_is_promised_is_of_the_right_size() {
    let mut world = world(500, "");
    let (study, _) = scan(&mut world, 1, 40);
    let mut promised = Vec::new();
    let begun = std::time::Instant::now();
    let arrived_ms = until(DEADLINE, "the study at the hub", || {
        let view = world.study_at_agent(&study).ok()??;
        let at = begun.elapsed();
        if view["custody"] == "at_hub" {
            return Some(at.as_millis());
        }
        let percent = view["percent_at_hub"].as_u64()?;
        let (low, high) = (
            view["eta_low_seconds"].as_u64(),
            view["eta_high_seconds"].as_u64(),
        );
        if (25..95).contains(&percent) {
            promised.push((at.as_millis(), low?, high?));
        }
        None
    })
    .unwrap();
    assert!(promised.len() >= 5, "{promised:?}");
    for (at_ms, low, high) in promised {
        let took_ms = arrived_ms - at_ms;
        // On a busy machine the link itself runs at half its rate for a while.
        let bounds = u128::from(low) * 1000 / 3..=u128::from(high) * 3000 + 1000;
        assert!(
            bounds.contains(&took_ms),
            "{took_ms} ms, not {low} to {high} s"
        );
    }
    let figures = figures(&mut world);
    for figure in [
        "chasqui_agent_studies_at_hub 1\n",
        "chasqui_agent_queued_bytes{class=\"routine\"} 0\n",
        "chasqui_agent_uplink_in_use{uplink=\"default\"} 1\n",
    ] {
        assert!(figures.contains(figure), "{figures}");
    }
    assert!(!figures.contains(study.as_str()), "{figures}");
}

/// The page of figures for Prometheus.
fn figures(world: &mut World) -> String {
    let console = world.agent().unwrap().ready("console").unwrap().to_owned();
    let address = console.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = TcpStream::connect(address).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

#[test]
fn a_metered_uplink_costs_little_while_nothing_is_to_be_sent() {
    let uplinks = "[[uplinks]]\nname = \"bgan\"\nmetered = true\npoll-interval = \"8s\"\n";
    let mut world = world(256, uplinks);
    hangs_up(&world);
    let log = |world: &mut World| world.agent().unwrap().log().unwrap();
    let contacts = |world: &mut World| log(world).matches("contact up").count();
    let (begun, before) = (contacts(&mut world), crossed(&mut world));
    until(DEADLINE, "three calls for news", || {
        (contacts(&mut world) >= begun + 3).then_some(())
    })
    .unwrap();
    hangs_up(&world);
    let calls = u64::try_from(contacts(&mut world) - begun).unwrap();
    let each = (crossed(&mut world) - before) / calls;
    eprintln!("a call for news costs {each} bytes both ways");
    // Six a day: the default interval.
    assert!(each * 6 <= 50_000, "{each} bytes for each call");
}
