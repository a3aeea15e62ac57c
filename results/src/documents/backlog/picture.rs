//! Pictures of a trial: the depth of the queue over time, and the clients by the SYN that connected
//! them.

use super::{Client, Depth, Fate};

/// Columns of the timeline, and of the longest bar.
const WIDTH: usize = 40;

/// Heights of a column, in eighths of a character cell.
const HEIGHTS: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Depth over `length_s` seconds, left to right. A column shows the greatest depth in its time;
/// `full` is a full line.
pub(crate) fn timeline(depth: &[Depth], full: u64, length_s: f64) -> String {
    if !(length_s > 0.0 && length_s.is_finite()) {
        return String::new();
    }
    let mut columns = [0; WIDTH];
    for (index, sample) in depth.iter().enumerate() {
        let column = |at_s: f64| ((at_s / length_s * WIDTH as f64) as usize).min(WIDTH - 1);
        let first = column(sample.at_s);
        // It stays as deep until the next sample. One in the same column leaves no trace of that.
        let last = depth.get(index + 1).map_or(WIDTH - 1, |next| column(next.at_s));
        let last = if depth.get(index + 1).is_some() { last.max(first + 1) - 1 } else { last };
        for height in &mut columns[first..=last.max(first)] {
            *height = sample.depth.max(*height);
        }
    }
    let height = |&depth: &u32| match depth {
        0 => HEIGHTS[0],
        depth => HEIGHTS[((u64::from(depth) * 8).div_ceil(full.max(1)) as usize).clamp(1, 8)],
    };
    columns.iter().map(height).collect()
}

/// One step of the ladder: the clients that the same SYN connected.
#[derive(Debug, PartialEq)]
pub(super) struct Rung {
    /// Number of the SYN, from 1.
    pub(super) syn: u32,
    /// Clients that it connected.
    pub(super) clients: usize,
    /// Median duration of their connects, seconds; absent if there are none.
    pub(super) connect_s: Option<f64>,
}

/// The clients by the SYN that connected them, up to the last that connected any.
pub(super) fn ladder(clients: &[Client]) -> Vec<Rung> {
    let connected = |client: &&Client| client.connect_s.is_some() && client.fate != Fate::Refused;
    let last = clients.iter().filter(connected).map(|client| client.syn_retrans).max();
    let rungs = 0..last.map_or(0, |last| last.min(255) + 1);
    let rung = |retrans: u32| {
        let mut times: Vec<f64> = clients
            .iter()
            .filter(connected)
            .filter(|client| client.syn_retrans == retrans)
            .filter_map(|client| client.connect_s)
            .collect();
        times.sort_by(f64::total_cmp);
        let connect_s = times.get(times.len() / 2).copied();
        Rung { syn: retrans + 1, clients: times.len(), connect_s }
    };
    rungs.map(rung).collect()
}

/// A bar as long as the share of `count` in `most`.
pub(crate) fn bar(count: usize, most: usize) -> String {
    "█".repeat((count * WIDTH.min(most)).div_ceil(most.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: f64, depth: u32) -> Depth {
        Depth { at_s, depth }
    }

    #[test]
    fn timeline_keeps_short_peaks_and_holds_between_samples() {
        let depth = [sample(0.0, 6), sample(1.0, 0), sample(1.5, 3), sample(1.501, 0)];
        let line: Vec<char> = timeline(&depth, 6, 2.0).chars().collect();
        assert_eq!(line.len(), WIDTH);
        assert_eq!(line[..WIDTH / 2], ['█'; WIDTH / 2]);
        assert_eq!(line[WIDTH / 2], '·');
        assert_eq!(line[WIDTH * 3 / 4], '▄');
        assert_eq!(line.iter().filter(|&&cell| cell == '·').count(), WIDTH / 2 - 1);
    }

    #[test]
    fn timeline_without_samples_is_empty() {
        assert_eq!(timeline(&[], 0, 0.0), "");
        assert_eq!(timeline(&[], 0, f64::NAN), "");
        assert_eq!(timeline(&[sample(9.0, 1)], 0, 1.0).chars().last(), Some('█'));
    }

    #[test]
    fn ladder_keeps_empty_rungs() {
        let client = |syn_retrans, connect_s| Client {
            started_s: 0.0,
            fate: Fate::Late,
            connect_s,
            syn_retrans,
            ghost: false,
            request_retrans: 0,
            served_s: None,
        };
        let clients =
            [client(0, Some(0.001)), client(2, Some(2.04)), client(2, Some(2.05)), client(9, None)];
        let rungs = ladder(&clients);
        let counts: Vec<_> = rungs.iter().map(|rung| (rung.syn, rung.clients)).collect();
        assert_eq!(counts, [(1, 1), (2, 0), (3, 2)]);
        assert_eq!(rungs[2].connect_s, Some(2.05));
        assert_eq!(ladder(&[]), []);
    }

    #[test]
    fn longest_bar_fits() {
        assert_eq!(bar(8, 8).chars().count(), 8);
        assert_eq!(bar(129, 129).chars().count(), WIDTH);
        assert_eq!(bar(1, 129).chars().count(), 1);
        assert_eq!(bar(0, 0), "");
    }
}
