//! Where a bucket is: redirects, regions, dots in its name, its name in that of the host, IPv6.

use super::*;
use crate::support::http::Reply;

#[test]
fn a_redirect_is_followed_and_signed_for_where_it_leads() {
    let remote = Remote::new();
    let elsewhere = Proxy::before(server().url());
    let segment = remote.segment(2);
    remote.push(&segment).ok();
    for (place, status) in [("/identity/", 307), ("/wal/", 307), ("/wal/", 308), ("/identity/", 302)] {
        let location = format!("{}/{}/{}", elsewhere.url(), remote.bucket.name, remote.bucket.key(place));
        let redirect = Reply::error(status, "TemporaryRedirect").header("Location", location);
        let fault = remote.proxy().inject(Rule::on("", place).answer(redirect));
        elsewhere.forget();
        // It is there already, which is found out over there.
        remote.push(&segment).ok();
        remote.holds(&segment.name(), &segment.bytes());
        assert!(fault.was_hit(), "{place}");
        assert_eq!(elsewhere.log().len(), fault.hits(), "{:?}", elsewhere.lines());
        remote.push(&remote.segment(2).mark("other")).refused();
        remote.proxy().clear();
    }
    let name = remote.segment(3).name();
    let key = remote.bucket.key(&segment.name()).replace(&segment.name(), &name);
    let location = format!("{}/{}/{key}", elsewhere.url(), remote.bucket.name);
    let redirect = Reply::error(307, "TemporaryRedirect").header("Location", location);
    remote.proxy().inject(Rule::on("PUT", &name).answer(redirect));
    remote.push(&remote.segment(3)).ok();
    remote.holds(&name, &remote.segment(3).bytes());
    assert_eq!(elsewhere.count("PUT", &name), 1);
}

#[test]
fn redirects_in_a_circle_come_to_an_end() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    let location = format!("{}/{}/again", remote.proxy().url(), remote.bucket.name);
    let redirect = Reply::error(307, "TemporaryRedirect").header("Location", location);
    let fault = remote.proxy().inject(Rule::on("", "").answer(redirect));
    remote.archive.push(&path).refused();
    remote.archive.fetch_fails(&segment.name());
    assert!((2..100).contains(&fault.hits()), "{} redirects", fault.hits());
}

#[test]
fn a_bucket_in_another_region_is_found_there() {
    let remote = Remote::new();
    let (segment, path) = remote.next();
    let (signed_here, region) = ("/us-east-1/s3/", "eu-central-1");
    let moved = Reply::error(301, "PermanentRedirect").header("x-amz-bucket-region", region);
    let malformed = "<Error><Code>AuthorizationHeaderMalformed</Code><Message>The authorization header is malformed; \
                     the region 'us-east-1' is wrong; expecting 'eu-central-1'</Message><Region>eu-central-1</Region></Error>";
    for reply in [moved, Reply::new(400, malformed)] {
        let fault =
            remote.proxy().inject(Rule::on("", "").header("authorization", signed_here).answer(reply));
        remote.proxy().forget();
        remote.archive.push(&path).ok();
        assert!(fault.was_hit());
        let log = remote.proxy().log();
        let last = log.last().and_then(|seen| seen.head.get("authorization")).unwrap_or_default();
        assert!(last.contains(&format!("/{region}/s3/")), "{last}");
        remote.holds(&segment.name(), &segment.bytes());
        remote.proxy().clear();
    }
    // A store that only says no: the region is a likely reason.
    let remote = remote;
    remote.proxy().inject(Rule::on("", "").answer(Reply::error(301, "PermanentRedirect")));
    remote.push(&remote.segment(3)).refused().says("hint:").says("endpoint");
    remote.archive.fetch_fails(&remote.segment(3).name());
}

#[test]
fn dots_in_the_name_of_a_bucket() {
    let bucket = Bucket::named("a.b");
    let repository = bucket.repository(PREFIX);
    let site = Site::build(|build| build.remote(repository));
    let names = site.pushed(&[2]);
    site.holds(&names[0], &site.segment(2).bytes());
    site.archive.fetch_ends(&site.segment(3).name());
}

#[test]
fn a_bucket_without_a_prefix_and_with_a_deep_one() {
    for prefix in ["", "a/b.c/d_e-f/g"] {
        let bucket = Bucket::new();
        let repository = bucket.repository(prefix);
        let site = Site::build(|build| build.remote(repository));
        let names = site.pushed(&[2]);
        site.holds(&names[0], &site.segment(2).bytes());
        site.archive.fetch_ends(&site.segment(3).name());
        assert!(bucket.keys().iter().all(|key| key.starts_with(prefix) && !key.starts_with('/')));
    }
}

#[test]
fn a_store_behind_an_ipv6_address() {
    let bucket = Bucket::new();
    let proxy = Proxy::at("[::1]", server().url());
    let repository = bucket.repository(PREFIX).line(&format!("endpoint = {:?}", proxy.url()));
    let site = Site::build(|build| build.remote(repository));
    let names = site.pushed(&[2]);
    site.holds(&names[0], &site.segment(2).bytes());
    assert!(proxy.count("PUT", "/wal/") == 1);
}

/// The same start, for which these names are on this machine. None where that is not possible.
fn with_host(run: Run, name: &str, scratch: &Scratch) -> Option<Run> {
    let hosts = scratch.write("hosts", format!("127.0.0.1 {name}\n"));
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let front =
        |run: Run| run.under(["unshare", "-Urm", "sh", "-c", script, hosts.to_str().expect("a path")]);
    let probe = front(Run::new("getent").args(["hosts", name])).go();
    (probe.code() == Some(0)).then(|| front(run))
}

#[test]
fn the_bucket_in_the_name_of_the_host() {
    if !s3::is_own() {
        return;
    }
    let bucket = Bucket::new();
    let endpoint = format!("endpoint = \"http://localhost:{}\"", bucket.proxy.port());
    let repository = bucket.repository(PREFIX).line("path_style = false").line(&endpoint);
    let site = Site::unregistered(1, |build| build.remote(repository));
    let host = format!("{}.localhost", bucket.name);
    let segment = site.segment(2);
    let path = site.data.write(&segment);
    let destination = site.archive.destination();
    let runs = [
        site.archive.run("walkeep").arg("init"),
        site.archive.pushing(path),
        site.archive.fetching(&segment.name(), &destination),
    ];
    for run in runs {
        let Some(run) = with_host(run, &host, &site.scratch) else {
            skipped("hosts", "a program cannot be given names of hosts here");
            return;
        };
        run.go().ok();
    }
    assert!(read(destination) == segment.bytes());
    let log = bucket.proxy.log();
    assert!(!log.is_empty());
    for seen in log {
        assert_eq!(seen.head.get("host"), Some(format!("{host}:{}", bucket.proxy.port()).as_str()));
        assert!(!seen.line().contains(&bucket.name), "{}", seen.line());
    }
}
