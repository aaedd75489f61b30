-- Only prints what wrk has measured. There is no `request` here, so that wrk sends the same static bytes each time.
done = function(summary, latency, requests)
    local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status
        + summary.errors.timeout
    io.write(string.format("\nbench checks=%d seconds=%.3f errors=%d p50_us=%d p99_us=%d p999_us=%d worst_us=%d\n",
        summary.requests, summary.duration / 1e6, bad, latency:percentile(50), latency:percentile(99),
        latency:percentile(99.9), latency.max))
end
