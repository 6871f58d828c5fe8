//! Wall clocks that are a year off, at the start and suddenly: nothing that lives expires for it where it need not, and
//! whoever has the wrong clock is named and not offered. `libfaketime` sets the clocks, in each program's process alone.

use fleet_tests::site::{ALL, FalseClock, Part, Site};

fn reason(site: &Site) -> anyhow::Result<String> {
    Ok(site.fleet_entry()?["reason"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_box_whose_clock_is_a_year_off_fills_is_named_and_not_offered_until_it_is_set() {
    let mut site = Site::plan().unwrap();
    let clock = FalseClock::new(site.path("box-clock")).unwrap();
    for part in [Part::Server, Part::Agent] {
        site.before.insert(part, clock.before().unwrap());
    }
    clock.set("-365d").unwrap();
    site.start(&ALL).unwrap();
    // Behind at the start: the sources' not_before and the keys' end are the control plane's, and it fills.
    site.wait_until_complete().unwrap();
    site.wait_for_reason("behind the control plane's: it refuses good tokens").unwrap();
    assert_eq!(reason(&site).unwrap(), "clock");
    let refused = site.play().unwrap_err().to_string();
    assert!(refused.contains("503") && refused.contains("clock"), "{refused}");
    clock.set("+0").unwrap();
    site.wait_until_well().unwrap();
    let play = site.play().unwrap();
    site.expect_all_served(&play).unwrap();
    for (off, said) in [("+365d", "ahead of"), ("-365d", "behind")] {
        clock.set(off).unwrap();
        site.wait_for_reason(said).unwrap();
        site.wait("the box not to be offered", |site| Ok(reason(site)? == "clock")).unwrap();
        // What the box has refused for it is named: 403, and why.
        let answers = site.fetch(&play).unwrap();
        assert!(answers.values().all(|(status, ..)| *status == 403), "{off}");
        clock.set("+0").unwrap();
        site.wait_until_well().unwrap();
        site.expect_all_served(&play).unwrap();
    }
}

#[test]
fn a_control_plane_whose_clock_is_set_forgets_no_box_and_what_plays_plays_on() {
    let mut site = Site::plan().unwrap();
    let clock = FalseClock::new(site.path("control-clock")).unwrap();
    site.before.insert(Part::Control, clock.before().unwrap());
    site.start(&ALL).unwrap();
    site.wait_until_well().unwrap();
    let play = site.play().unwrap();
    for off in ["+365d", "-365d"] {
        clock.set(off).unwrap();
        // Known to be off once it has reported; a box is never taken for silent meanwhile.
        site.wait("the clocks to be compared", |site| {
            let reason = reason(site)?;
            anyhow::ensure!(reason != "silent", "{off}: the jump made a box silent");
            Ok(reason == "clock")
        })
        .unwrap();
        site.wait_for_reason("the clock of this box is").unwrap();
        site.expect_all_served(&play).unwrap();
        let refused = site.play().unwrap_err().to_string();
        assert!(refused.contains("clock"), "{refused}");
        clock.set("+0").unwrap();
        site.wait_until_well().unwrap();
        let again = site.play().unwrap();
        site.expect_all_served(&again).unwrap();
    }
    assert!(site.log(Part::Control).contains("this machine's clock was set"));
    // At its start, too.
    site.kill(&[Part::Control]).unwrap();
    clock.set("+365d").unwrap();
    site.start(&[Part::Control]).unwrap();
    site.wait("the clocks to be compared", |site| Ok(reason(site)? == "clock")).unwrap();
    site.expect_all_served(&play).unwrap();
    clock.set("+0").unwrap();
    site.wait_until_well().unwrap();
}
