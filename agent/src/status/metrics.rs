//! The same for Prometheus: figures, and nothing of patients, no UID.

use std::fmt::Write as _;

use study::Priority;

use super::{LinkView, crossing::Crossing};
use crate::commands::Rooms;
use crate::uplink::UplinkView;
use crate::vault::{Custody, StudyOverview, VaultError};

/// The figures in Prometheus' text form.
pub(crate) fn metrics(rooms: &Rooms) -> Result<String, VaultError> {
    let studies = rooms.vault.studies()?;
    let link = rooms.link.as_ref().map(|link| link.view());
    let (link, uplinks) = (link.unwrap_or_default(), rooms.uplinks.view());
    let crossing = Crossing::of(&studies, &link, &uplinks, clock::wall_ms());
    let mut page = Page::default();
    of_studies(&mut page, &studies, &crossing);
    of_link(&mut page, &link);
    of_uplinks(&mut page, &uplinks);
    page.gauge("free_bytes", "Free bytes of the disk.");
    page.value("", rooms.vault.free_bytes());
    Ok(page.0)
}

fn of_studies(page: &mut Page, studies: &[StudyOverview], crossing: &Crossing) {
    let at_hub = studies
        .iter()
        .filter(|study| study.custody == Custody::AtHub);
    page.gauge("studies", "Studies that something is held of.");
    page.value("", studies.len() as u64);
    page.gauge("studies_at_hub", "Studies with custody at the hub.");
    page.value("", at_hub.count() as u64);
    page.gauge("queued_bytes", "Bytes that wait to cross.");
    for class in Priority::ALL {
        page.value(&format!("class=\"{class}\""), crossing.queued_of(class));
    }
}

fn of_link(page: &mut Page, link: &LinkView) {
    page.gauge("link_up", "A contact with the hub is up.");
    page.value("", link.connected.into());
    for (name, help, value) in [
        (
            "link_rate_kbits",
            "Rate that the link delivers.",
            link.rate_kbits,
        ),
        ("link_rtt_ms", "Round trip.", link.rtt_ms),
        ("link_sent_bytes", "Sent in this contact.", link.bytes_sent),
        (
            "link_received_bytes",
            "Received in this contact.",
            link.bytes_received,
        ),
        (
            "link_lost_bytes",
            "Sent and lost in this contact.",
            link.bytes_lost,
        ),
    ] {
        page.gauge(name, help);
        page.value("", value);
    }
}

fn of_uplinks(page: &mut Page, uplinks: &[UplinkView]) {
    type Figure = fn(&UplinkView) -> Option<u64>;
    let figures: [(&str, &str, Figure); 5] = [
        ("uplink_in_use", "The contact goes over it.", |u| {
            Some(u.in_use.into())
        }),
        ("uplink_day_bytes", "Used of it this day.", |u| {
            Some(u.day.bytes)
        }),
        (
            "uplink_day_bytes_limit",
            "What may be used in a day.",
            |u| u.day.bytes_limit,
        ),
        ("uplink_month_bytes", "Used of it this month.", |u| {
            Some(u.month.bytes)
        }),
        (
            "uplink_month_bytes_limit",
            "What may be used in a month.",
            |u| u.month.bytes_limit,
        ),
    ];
    for (name, help, figure) in figures {
        page.gauge(name, help);
        for uplink in uplinks {
            if let Some(value) = figure(uplink) {
                page.value(&format!("uplink=\"{}\"", uplink.name), value);
            }
        }
    }
}

/// A page of figures; each value belongs to the gauge before it.
#[derive(Default)]
struct Page(String, &'static str);

impl Page {
    fn gauge(&mut self, name: &'static str, help: &str) {
        self.1 = name;
        let name = format!("chasqui_agent_{name}");
        write!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge\n")
            .expect("writing to a String does not fail");
    }

    fn value(&mut self, labels: &str, value: u64) {
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{labels}}}")
        };
        writeln!(self.0, "chasqui_agent_{}{labels} {value}", self.1)
            .expect("writing to a String does not fail");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_in_the_text_form_of_prometheus() {
        let mut page = Page::default();
        page.gauge("queued_bytes", "Bytes.");
        page.value("class=\"stat\"", 7);
        assert_eq!(
            page.0,
            "# HELP chasqui_agent_queued_bytes Bytes.\n# TYPE chasqui_agent_queued_bytes gauge\n\
             chasqui_agent_queued_bytes{class=\"stat\"} 7\n"
        );
    }
}
