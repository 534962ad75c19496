//! The life of a cluster that speaks TLS: schedulers and agents join it with
//! tokens that work once, certificates lapse and come back, tokens and machines
//! are revoked, and what everybody did is written down.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use berth_client::ClientError;
use berth_identity::folder::{Folder, write_private};
use berth_identity::tls::Trust;
use berth_identity::{Dialer, KeyMaterial, MachineId};
use berth_model::{DurationMs, Grant, JoinGrant, Machine, Role, Scope};
use berth_proto::v1;
use berth_proto::v1::access_client::AccessClient;
use tonic::Code;

use support::secure::{QUARTER, SecureAgent, SecureScheduler, is_ready, sign, token_file};

fn joins(machine: Machine) -> Grant {
    Grant::Join(JoinGrant { machine, name: None, pool: None })
}

fn submits(namespaces: &[&str]) -> Grant {
    let names: BTreeSet<_> = namespaces.iter().map(|name| support::text(name)).collect();
    let scope = if names.is_empty() { Scope::All } else { Scope::Namespaces(names) };
    Grant::Person { role: Role::Submit, scope }
}

fn refusal(answer: Result<impl std::fmt::Debug, ClientError>) -> berth_client::Refusal {
    match answer {
        Err(ClientError::Refused(refusal)) => *refusal,
        other => panic!("expected a refusal, found {other:?}"),
    }
}

fn berth(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(arguments).env_clear();
    command.envs(variables.iter().copied()).output().unwrap()
}

#[tokio::test]
async fn machines_join_with_tokens_that_work_once() {
    let folder = tempfile::tempdir().unwrap();
    let first = SecureScheduler::found(folder.path().join("s1")).await;
    let token = first.data_dir.join("join-scheduler.token");
    let second = SecureScheduler::join(folder.path().join("s2"), &[&first], &token);
    let admin = first.admin().unwrap();
    support::until("two voters", || async {
        let status = admin.status(v1::StatusRequest { consistency: 0 }).await.ok()?;
        (status.members.iter().filter(|one| one.role != "learner").count() == 2).then_some(())
    })
    .await;

    // The same token, another scheduler.
    let mut third = SecureScheduler::join(folder.path().join("s3"), &[&first], &token);
    assert!(!third.child.ended().await.unwrap().success());
    assert!(!third.data_dir.join("scheduler.json").exists());
    // A token of another kind.
    let agents = token_file(&first, joins(Machine::Agent), folder.path().join("a.token")).await;
    let mut fourth = SecureScheduler::join(folder.path().join("s4"), &[&first], &agents);
    assert!(!fourth.child.ended().await.unwrap().success());

    // An agent joins through the follower; another with its token does not.
    let servers = [second.grpc.as_str(), first.grpc.as_str()];
    let agent = SecureAgent::start(folder.path(), "gpu-1", &servers, Some(&agents));
    is_ready(&admin, "gpu-1").await;
    let mut other = SecureAgent::start(folder.path(), "gpu-2", &servers, Some(&agents));
    assert!(!other.child.ended().await.unwrap().success());
    // A certificate is for one name.
    std::fs::create_dir_all(folder.path().join("gpu-3")).unwrap();
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(agent.data_dir.join("tls")).arg(folder.path().join("gpu-3/tls"));
    assert!(copy.status().unwrap().success());
    let mut impostor = SecureAgent::start(folder.path(), "gpu-3", &servers, None);
    assert!(!impostor.child.ended().await.unwrap().success());

    // Work runs, submitted through either scheduler, logs and all.
    for (number, scheduler) in [&first, &second].into_iter().enumerate() {
        let client = scheduler.client(scheduler_admin(&first), Some(&admin_token(&first)));
        let name = format!("job-{number}");
        let spec = support::batch(&name, 1, support::shell("echo from $BERTH_NODE"));
        let id = support::submit(&client, &spec).await;
        support::until("the job to succeed", || async {
            (support::job(&client, id).await.ok()?.state == "succeeded").then_some(())
        })
        .await;
    }
    let tls = first.data_dir.join("admin").display().to_string();
    let variables = [("BERTH_SERVER", servers[0]), ("BERTH_TLS_DIR", tls.as_str())];
    let logs = berth(&["logs", "job-1", "--token", &admin_token(&first)], &variables);
    assert_eq!(String::from_utf8_lossy(&logs.stdout), "from gpu-1\n", "{logs:?}");
    drop(agent);
}

fn admin_token(scheduler: &SecureScheduler) -> String {
    let text = std::fs::read_to_string(scheduler.data_dir.join("admin.token")).unwrap();
    text.trim().to_owned()
}

fn scheduler_admin(
    scheduler: &SecureScheduler,
) -> std::sync::Arc<berth_identity::tls::Credentials> {
    let folder = Folder::new(scheduler.data_dir.join("admin"));
    std::sync::Arc::new(folder.credentials().unwrap())
}

/// The reason of a refusal is one and the same whatever is wrong with a join
/// token, and none of them reaches the log.
#[tokio::test]
async fn a_join_token_that_does_not_fit_is_refused_in_one_wording() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let admin = scheduler.admin().unwrap();
    let pin = Trust::Pinned(scheduler.authority().fingerprint());
    let endpoint = Dialer::endpoint(&scheduler.grpc).unwrap();
    let channel = Dialer::tls(pin).unwrap().channel(&endpoint);
    let key = KeyMaterial::generate().unwrap();
    let other_key = KeyMaterial::generate().unwrap();
    let enrol = |token: String, key: &KeyMaterial, name: &str, pool: &str| v1::EnrolRequest {
        token,
        request: key.request().unwrap().into(),
        machine: v1::Machine::Agent.into(),
        name: name.to_owned(),
        pool: pool.to_owned(),
    };
    let any = scheduler.token(joins(Machine::Agent), QUARTER).await.to_text();
    let bound = Grant::Join(JoinGrant {
        machine: Machine::Agent,
        name: Some(support::text("gpu-1")),
        pool: Some(support::text("training")),
    });
    let bound = scheduler.token(bound, QUARTER).await.to_text();
    let gateway = scheduler.token(joins(Machine::Gateway), QUARTER).await.to_text();
    let person = scheduler.token(submits(&[]), None).await.to_text();
    let brief = scheduler.token(joins(Machine::Agent), Some(DurationMs(1))).await.to_text();
    let mut client = AccessClient::new(channel);
    client.enrol(enrol(any.clone(), &key, "gpu-1", "")).await.unwrap();
    // An answer that was lost is given again, to the same key and name alone.
    client.enrol(enrol(any.clone(), &key, "gpu-1", "")).await.unwrap();
    let secretless = {
        let parts: Vec<&str> = any.split('_').collect();
        format!("berth_{}_{}_{}", parts[1], "0".repeat(64), parts[3])
    };
    let index = admin.status(v1::StatusRequest { consistency: 0 }).await.unwrap().applied_index;
    let cases = [
        ("used by another key", enrol(any.clone(), &other_key, "gpu-1", "")),
        ("used for another name", enrol(any.clone(), &key, "gpu-2", "")),
        ("a wrong secret", enrol(secretless, &key, "gpu-1", "")),
        ("another name", enrol(bound.clone(), &key, "gpu-2", "training")),
        ("another pool", enrol(bound.clone(), &key, "gpu-1", "serving")),
        ("no pool", enrol(bound, &key, "gpu-1", "")),
        ("another kind of machine", enrol(gateway, &key, "gpu-1", "")),
        ("a person's", enrol(person, &key, "gpu-1", "")),
        ("expired", enrol(brief, &key, "gpu-1", "")),
        ("no token", enrol("password".to_owned(), &key, "gpu-1", "")),
        ("nothing", enrol(String::new(), &key, "gpu-1", "")),
    ];
    let mut wordings = BTreeSet::new();
    for (what, request) in cases {
        let refused = client.enrol(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{what}");
        wordings.insert(refused.message().to_owned());
    }
    assert_eq!(wordings.len(), 1, "{wordings:?}");
    let status = admin.status(v1::StatusRequest { consistency: 0 }).await.unwrap();
    assert_eq!(status.applied_index, index, "a guess reached the log");
}

#[tokio::test]
async fn a_revoked_token_fails_at_once_on_every_scheduler() {
    let folder = tempfile::tempdir().unwrap();
    let first = SecureScheduler::found(folder.path().join("s1")).await;
    let token = first.data_dir.join("join-scheduler.token");
    let second = SecureScheduler::join(folder.path().join("s2"), &[&first], &token);
    let admin = first.admin().unwrap();
    let credentials = first.credentials(Machine::Client, "alice", 0);
    for round in 0..20 {
        let token = first.token(submits(&["research"]), None).await;
        let text = token.to_text();
        let through = [&first, &second].map(|one| one.client(credentials.clone(), Some(&text)));
        for client in &through {
            let mut spec = support::batch(&format!("job-{round}"), 1, support::shell("true"));
            spec.namespace = support::text("research");
            client.submit(support::request(&spec, &format!("{round}"))).await.unwrap();
        }
        admin.revoke_token(v1::RevokeTokenRequest { id: token.id.0 }).await.unwrap();
        for client in &through {
            let asked = v1::ListJobsRequest { namespace: "research".into(), ..Default::default() };
            let refused = refusal(client.list_jobs(asked).await);
            assert_eq!(refused.code, Code::Unauthenticated, "{refused:?}");
        }
    }
}

#[tokio::test]
async fn a_token_sees_and_touches_its_own_namespaces_only() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let credentials = scheduler.credentials(Machine::Client, "alice", 0);
    let text = scheduler.token(submits(&["research"]), None).await.to_text();
    let (admin, client) = (scheduler.admin().unwrap(), scheduler.client(credentials, Some(&text)));
    let spec = |namespace: &str| {
        let mut spec = support::batch("secret", 1, support::shell("true"));
        spec.namespace = support::text(namespace);
        spec
    };
    // Its beginning is not its name.
    for namespace in ["research", "research-2", "default"] {
        admin.submit(support::request(&spec(namespace), "key")).await.unwrap();
    }
    let theirs = |namespace: &str| {
        Some(v1::JobRef { namespace: namespace.to_owned(), job: "secret".to_owned() })
    };
    let listed = client.list_jobs(v1::ListJobsRequest::default()).await.unwrap().jobs;
    let namespaces: Vec<&str> = listed.iter().map(|job| job.namespace.as_str()).collect();
    assert_eq!(namespaces, ["research"]);
    for namespace in ["research-2", "default", "nowhere"] {
        let denied = |refused: berth_client::Refusal| {
            assert_eq!(refused.code, Code::PermissionDenied, "{refused:?}");
            assert!(!refused.message.contains("secret"), "{refused:?}");
        };
        let job = theirs(namespace);
        let get = v1::GetJobRequest { job: job.clone(), ..Default::default() };
        denied(refusal(client.get_job(get).await));
        let change = v1::ChangeJobRequest { job: job.clone(), if_version: None };
        denied(refusal(client.stop_job(change).await));
        denied(refusal(client.submit(support::request(&spec(namespace), "other")).await));
        let list = v1::ListJobsRequest { namespace: namespace.to_owned(), ..Default::default() };
        denied(refusal(client.list_jobs(list).await));
        let plan = v1::PlanRequest {
            spec: Some(berth_wire::spec::job_spec_to_proto(&spec(namespace))),
            ..v1::PlanRequest::default()
        };
        denied(refusal(client.plan(plan).await));
    }
    let mut events = client.events(v1::EventsRequest::default());
    let mut jobs = BTreeSet::new();
    while let Some(event) = events.next().await.unwrap() {
        jobs.extend(event.job_id);
    }
    assert_eq!(jobs, BTreeSet::from([listed[0].id]));
}

#[tokio::test]
async fn an_agent_that_lapsed_comes_back_and_one_that_is_revoked_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let admin = scheduler.admin().unwrap();
    let authority = scheduler.authority();
    let prepare = |name: &str, age_days: u64| {
        let tls = Folder::new(folder.path().join(name).join("tls"));
        let cluster_id = authority.cluster_id().unwrap();
        let id =
            MachineId { cluster_id, machine: Machine::Agent, name: name.to_owned(), pool: None };
        let certificate = sign(&authority, &id, &tls.key().unwrap(), age_days);
        tls.save_certificate(&certificate, authority.certificate()).unwrap();
        tls
    };
    let servers = [scheduler.grpc.as_str()];
    // Thirty days long, a day ago.
    let tls = prepare("gpu-1", 31);
    let lapsed = tls.credentials().unwrap().certified();
    let agent = SecureAgent::start(folder.path(), "gpu-1", &servers, None);
    is_ready(&admin, "gpu-1").await;
    let renewed = tls.credentials().unwrap().certified();
    assert!(renewed.expires > lapsed.expires, "{renewed:?}");
    assert_eq!(renewed.key_hash, lapsed.key_hash);

    // Revoked, it is sent away in the middle of its session, and its renewal
    // is refused as well.
    let revoke = v1::RevokeCertificatesRequest {
        machine: v1::Machine::Agent.into(),
        name: "gpu-1".to_owned(),
    };
    admin.revoke_certificates(revoke).await.unwrap();
    support::until("the node to be missed", || async {
        let reply = admin.list_nodes(v1::ListNodesRequest { consistency: 0 }).await.ok()?;
        reply.nodes.iter().any(|node| node.state == "disconnected").then_some(())
    })
    .await;
    drop(agent);
    let endpoint = Dialer::endpoint(&scheduler.grpc).unwrap();
    let credentials = std::sync::Arc::new(tls.credentials().unwrap());
    let channel = Dialer::tls(Trust::Member(credentials)).unwrap().channel(&endpoint);
    let request = tls.key().unwrap().request().unwrap().into();
    let refused = AccessClient::new(channel).renew(v1::RenewRequest { request }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");

    // With a new token it joins again, under its old name.
    std::fs::remove_dir_all(tls.path()).unwrap();
    let named = Grant::Join(JoinGrant {
        machine: Machine::Agent,
        name: Some(support::text("gpu-1")),
        pool: None,
    });
    let token = token_file(&scheduler, named, folder.path().join("token")).await;
    let _agent = SecureAgent::start(folder.path(), "gpu-1", &servers, Some(&token));
    is_ready(&admin, "gpu-1").await;
}

#[tokio::test]
async fn a_renewal_is_for_the_key_that_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let credentials = scheduler.credentials(Machine::Agent, "gpu-1", 40);
    let endpoint = Dialer::endpoint(&scheduler.grpc).unwrap();
    let channel = Dialer::tls(Trust::Member(credentials)).unwrap().channel(&endpoint);
    let other = KeyMaterial::generate().unwrap().request().unwrap();
    let asked = v1::RenewRequest { request: other.into() };
    let refused = AccessClient::new(channel).renew(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
}

/// A member that could not prove itself would be neither in nor out.
#[tokio::test]
async fn a_scheduler_that_is_a_member_is_not_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let revoke =
        v1::RevokeCertificatesRequest { machine: v1::Machine::Server.into(), name: "1".to_owned() };
    let refused = refusal(scheduler.admin().unwrap().revoke_certificates(revoke).await);
    assert_eq!(refused.code, Code::FailedPrecondition, "{refused:?}");
}

#[tokio::test]
async fn whoever_owns_the_data_directory_gets_in_again() {
    let folder = tempfile::tempdir().unwrap();
    let scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let first: berth_identity::Token = admin_token(&scheduler).parse().unwrap();
    let admin = scheduler.admin().unwrap();
    admin.revoke_token(v1::RevokeTokenRequest { id: first.id.0 }).await.unwrap();
    refusal(admin.list_tokens(v1::ListTokensRequest {}).await);

    let data_dir = scheduler.data_dir.display().to_string();
    let recovered = berth(&["operator", "recover-admin", "--data-dir", &data_dir], &[]);
    assert!(recovered.status.success(), "{recovered:?}");
    let token = String::from_utf8(recovered.stdout).unwrap();
    let client = scheduler.client(scheduler_admin(&scheduler), Some(token.trim()));
    let tokens = client.list_tokens(v1::ListTokensRequest {}).await.unwrap().tokens;
    assert!(tokens.iter().any(|token| token.label == "recovered admin"), "{tokens:?}");

    // What was done and what was refused is on record, and no secret is.
    let mut audit = String::new();
    for entry in std::fs::read_dir(scheduler.data_dir.join("audit")).unwrap() {
        audit.push_str(&std::fs::read_to_string(entry.unwrap().path()).unwrap());
    }
    for trace in ["Access/RevokeToken", "Access/RecoverAdmin", "Access/ListTokens"] {
        assert!(audit.contains(trace), "{audit}");
    }
    for secret in [first.to_text(), token] {
        let secret = secret.split('_').nth(2).unwrap().to_owned();
        assert!(!audit.contains(&secret));
    }
}

/// The whole cluster was off for longer than its certificates last: each
/// scheduler holds what it takes to sign its own renewal.
#[tokio::test]
async fn schedulers_that_all_lapsed_come_back_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = SecureScheduler::found(folder.path().join("s1")).await;
    let token = first.data_dir.join("join-scheduler.token");
    let mut second = SecureScheduler::join(folder.path().join("s2"), &[&first], &token);
    let admin = first.admin().unwrap();
    support::until("two voters", || async {
        let status = admin.status(v1::StatusRequest { consistency: 0 }).await.ok()?;
        (status.members.iter().filter(|one| one.role != "learner").count() == 2).then_some(())
    })
    .await;
    let authority = first.authority();
    let cluster_id = authority.cluster_id().unwrap();
    for (id, scheduler) in [(1, &mut first), (2, &mut second)] {
        scheduler.child.kill().await.unwrap();
        let tls = Folder::new(scheduler.data_dir.join("tls"));
        let id = MachineId::scheduler(cluster_id, id);
        let certificate = sign(&authority, &id, &tls.key().unwrap(), 40);
        tls.save_certificate(&certificate, authority.certificate()).unwrap();
    }
    let (first, second) = (first.restart(), second.restart());
    first.answers().await;
    for scheduler in [&first, &second] {
        let tls = Folder::new(scheduler.data_dir.join("tls"));
        let certified = tls.credentials().unwrap().certified();
        assert!(certified.expires.0 > support::secure::wall_ms(), "{certified:?}");
    }
}

/// A file that an operator replaced is in use at the next handshake, and the
/// process is the same.
#[tokio::test]
async fn a_certificate_that_was_replaced_is_used_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut scheduler = SecureScheduler::found(folder.path().join("s1")).await;
    let tls = Folder::new(scheduler.data_dir.join("tls"));
    let authority = scheduler.authority();
    let id = MachineId::scheduler(authority.cluster_id().unwrap(), 1);
    let certificate = sign(&authority, &id, &tls.key().unwrap(), 3);
    tls.save_certificate(&certificate, authority.certificate()).unwrap();
    let wanted = tls.credentials().unwrap().certified();
    let credentials = scheduler.credentials(Machine::Client, "alice", 0);
    support::until("the new certificate to be shown", || async {
        let shown = support::secure::shown_certificate(&scheduler.grpc, credentials.clone()).await;
        (shown == certificate).then_some(())
    })
    .await;
    assert_eq!(wanted.id.scheduler_id(), Some(1));
    assert!(scheduler.child.has_ended().is_none());
}

#[tokio::test]
async fn a_restored_cluster_is_believed_by_whoever_believed_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut old = SecureScheduler::found(folder.path().join("s1")).await;
    let agents = token_file(&old, joins(Machine::Agent), folder.path().join("a.token")).await;
    let _agent = SecureAgent::start(folder.path(), "gpu-1", &[&old.grpc], Some(&agents));
    is_ready(&old.admin().unwrap(), "gpu-1").await;
    let alice = old.token(submits(&[]), None).await.to_text();
    let credentials = old.credentials(Machine::Client, "alice", 0);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (backup, seal) = (path("b"), path("s1/tls/seal.key"));
    let tls = path("s1/admin");
    let token = admin_token(&old);
    let variables =
        [("BERTH_SERVER", old.grpc.as_str()), ("BERTH_TLS_DIR", &tls), ("BERTH_TOKEN", &token)];
    let saved = berth(&["operator", "snapshot", "save", &backup], &variables);
    assert!(saved.status.success(), "{saved:?}");
    old.child.kill().await.unwrap();

    // What the file alone is worth.
    let bytes = std::fs::read(&backup).unwrap();
    let key = std::fs::read_to_string(folder.path().join("s1/authority/ca-key.pem")).unwrap();
    let secret = key.lines().nth(1).unwrap().as_bytes();
    assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    let restore = |data_dir: &str, more: &[&str]| {
        let grpc = old.grpc.as_str();
        let fixed = ["operator", "snapshot", "restore", &backup, "--data-dir", data_dir];
        let fixed = [&fixed[..], &["--advertise", grpc, "--await-at-least", "1ms"], more].concat();
        berth(&fixed, &[])
    };
    let without = restore(&path("s2"), &[]);
    assert!(String::from_utf8_lossy(&without.stderr).contains("--seal-key"), "{without:?}");
    let wrong = path("wrong.key");
    write_private(Path::new(&wrong), &"0".repeat(64)).unwrap();
    let wrong = restore(&path("s2"), &["--seal-key", &wrong]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("does not fit"), "{wrong:?}");
    assert!(!folder.path().join("s2").exists());

    for (data_dir, more) in [
        ("s2", vec!["--seal-key".to_owned(), seal]),
        (
            "s3",
            vec![
                "--authority".to_owned(),
                path("s1/authority"),
                "--incarnation".to_owned(),
                "3".to_owned(),
            ],
        ),
    ] {
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let restored = restore(&path(data_dir), &more);
        assert!(restored.status.success(), "{restored:?}");
        let (grpc, http) = (old.grpc.clone(), old.http.clone());
        let data_dir = folder.path().join(data_dir);
        let scheduler = SecureScheduler::on(data_dir, grpc, http);
        let client = scheduler.client(credentials.clone(), Some(&alice));
        is_ready(&client, "gpu-1").await;
        let mut child = scheduler.child;
        child.kill().await.unwrap();
    }
}
