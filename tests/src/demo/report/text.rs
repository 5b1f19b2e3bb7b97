//! The report as a person reads it.

use std::fmt;

use super::super::capture::Traffic;
use super::{Report, WANTED};

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pods(out)?;
        self.answers(out)?;
        self.hops(out)?;
        self.identities(out)?;
        self.links(out)?;
        self.change(out)?;
        let seconds = self.took.as_secs_f64();
        writeln!(
            out,
            "\nFrom the label on the namespace to the last pod enrolled: {} ms. Restarts of application pods: {}. The demo took {seconds:.1} s.",
            self.enrolled.as_millis(),
            self.restarts
        )
    }
}

impl Report {
    fn pods(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "Nodes: {}", self.nodes.join(", "))?;
        writeln!(
            out,
            "\n{:<16} {:<44} {:<8} {:<16} mesh",
            "NAMESPACE", "POD", "NODE", "IP"
        )?;
        for pod in &self.pods {
            let mesh = if pod.in_mesh { "enrolled" } else { "-" };
            writeln!(
                out,
                "{:<16} {:<44} {:<8} {:<16} {mesh}",
                pod.namespace, pod.name, pod.node, pod.ip
            )?;
        }
        Ok(())
    }

    fn answers(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        writeln!(
            out,
            "\n{} requests for /productpage through the ingress gateway, {} failed.",
            tally.requests, tally.failures
        )?;
        writeln!(
            out,
            "\n{:<12} {:>8} {:>8} {:>8}",
            "REVIEWS", "pages", "share", "wanted"
        )?;
        for (version, wanted) in WANTED {
            let (pages, share) = (tally.reviews(version), self.share(version));
            writeln!(out, "{version:<12} {pages:>8} {share:>6.1} % {wanted:>6} %")?;
        }
        for (reviews, ratings) in [("v3", "v2"), ("v2", "v1")] {
            let (asked, right) = (tally.ratings_asked_by(reviews), tally.ratings(reviews, ratings));
            writeln!(
                out,
                "reviews-{reviews} called ratings-{ratings} in {right} of {asked} calls of ratings."
            )?;
        }
        Ok(())
    }

    fn hops(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "\n{:<36} {:>8} {:>14}", "CALLS", "total", "across nodes")?;
        for (name, hop) in &self.hops {
            writeln!(out, "{name:<36} {:>8} {:>14}", hop.calls, hop.across)?;
        }
        Ok(())
    }

    fn identities(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\nIdentities that both sides proved, and how often (connections and requests):"
        )?;
        for (pair, count) in &self.proved.0 {
            writeln!(out, "  {} -> {}  {count}", pair.source, pair.destination)?;
        }
        Ok(())
    }

    fn links(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(before), Some(after)) = (self.before, self.after) else {
            return writeln!(
                out,
                "\nPACKETS: left out. Nobody from here can enter the nodes of a cluster of one's own; the proofs of identity above stand for the encryption."
            );
        };
        writeln!(
            out,
            "\n{:<44} {:>9} {:>12} {:>11}",
            "PACKETS CAPTURED", "total", "port 15008", "with text"
        )?;
        line(out, "without the label, between the nodes", before.nodes)?;
        line(out, "without the label, on the pods' links", before.pods)?;
        line(out, "in the mesh, between the nodes", after.nodes)?;
        line(out, "in the mesh, on the pods' links", after.pods)?;
        line(out, "apart: the client's own link to the gateway", after.edge)?;
        writeln!(
            out,
            "Packets that the capture lost: {}",
            before.dropped + after.dropped
        )
    }

    fn change(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = &self.change;
        write!(
            out,
            "\nWeights changed under up to {} requests/s: {} requests, {} failed; ",
            change.per_second, change.requests, change.failures
        )?;
        match change.took {
            Some(took) => writeln!(
                out,
                "the last answer of the old split came {} ms after the change.",
                took.as_millis()
            ),
            None => writeln!(out, "the new split never held."),
        }
    }
}

fn line(out: &mut fmt::Formatter<'_>, what: &str, traffic: Traffic) -> fmt::Result {
    writeln!(
        out,
        "{what:<44} {:>9} {:>12} {:>11}",
        traffic.packets, traffic.hbone, traffic.plaintext
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_report_names_what_it_counted() {
        let text = super::super::tests::good().to_string();
        for expected in [
            "400 requests for /productpage through the ingress gateway, 0 failed.",
            "reviews-v3 called ratings-v2 in 200 of 200",
            "the last answer of the old split came 150 ms after",
            "details-v1-x",
        ] {
            assert!(text.contains(expected), "{expected} is missing in:\n{text}");
        }
    }
}
