//! What nodes count and measure in the older of the two text formats that Prometheus has. They are written in the
//! newer, OpenMetrics; what collects files, such as node_exporter, reads the older only.

/// `open_metrics`, as [`NodeHandle::metrics`](crate::NodeHandle::metrics) and
/// [`Client::metrics`](crate::kv::Client::metrics) give it, in the text format of Prometheus, version 0.0.4.
///
/// There the name of a counter ends in `_total` in the lines about it too, there are no types `info` and `unknown`, and no
/// lines about units or the end.
#[must_use]
pub fn prometheus_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // What a metric is called depends on its type, which is told after the help.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            help = said.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|said| said.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, said)) = help.take().filter(|(of, _)| *of == name) {
                text += &format!("# HELP {name}{suffix} {said}\n");
            }
            text += &format!("# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text += line;
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types of OpenMetrics become those of the older format, with the names that their samples have; what has no
    /// counterpart goes, and samples stay as they are.
    #[test]
    fn types_and_names_fit_their_samples() {
        let open_metrics = "\
# HELP quorate_build The version of the program.
# TYPE quorate_build info
quorate_build_info{node=\"1\",version=\"0.1.0\"} 1
# HELP quorate_disk_stalls How often it stood still.
# TYPE quorate_disk_stalls counter
quorate_disk_stalls_total{node=\"1\"} 3
# HELP quorate_log_bytes The size of the log's file.
# TYPE quorate_log_bytes gauge
# UNIT quorate_log_bytes bytes
quorate_log_bytes{node=\"1\"} 4096
# TYPE quorate_append_seconds histogram
# UNIT quorate_append_seconds seconds
quorate_append_seconds_sum{node=\"1\"} 0.5
quorate_append_seconds_count{node=\"1\"} 2
quorate_append_seconds_bucket{le=\"+Inf\",node=\"1\"} 2
# TYPE quorate_odd unknown
quorate_odd{text=\"# TYPE x counter\"} 1
# EOF
";
        let expected = "\
# HELP quorate_build_info The version of the program.
# TYPE quorate_build_info gauge
quorate_build_info{node=\"1\",version=\"0.1.0\"} 1
# HELP quorate_disk_stalls_total How often it stood still.
# TYPE quorate_disk_stalls_total counter
quorate_disk_stalls_total{node=\"1\"} 3
# HELP quorate_log_bytes The size of the log's file.
# TYPE quorate_log_bytes gauge
quorate_log_bytes{node=\"1\"} 4096
# TYPE quorate_append_seconds histogram
quorate_append_seconds_sum{node=\"1\"} 0.5
quorate_append_seconds_count{node=\"1\"} 2
quorate_append_seconds_bucket{le=\"+Inf\",node=\"1\"} 2
# TYPE quorate_odd untyped
quorate_odd{text=\"# TYPE x counter\"} 1
";
        assert_eq!(prometheus_text(open_metrics), expected);
        assert_eq!(prometheus_text("# EOF\n"), "");
    }
}
