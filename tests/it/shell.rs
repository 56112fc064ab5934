//! Commands that PostgreSQL gives to the shell are read as the shell reads them.

use walkeep::pg::shell::ShellCommand;

#[test]
fn quotes_hide_what_a_shell_would_not_see() {
    let cases: [(&str, &[&str], &[&str]); 12] = [
        ("walpush %p", &["walpush", "%p"], &[]),
        ("'/a & b/walpush' %p", &["/a & b/walpush", "%p"], &[]),
        (r#""/a;b/walpush" "%p""#, &["/a;b/walpush", "%p"], &[]),
        (r"/a\;b\&c\ d/walpush %p", &["/a;b&c d/walpush", "%p"], &[]),
        (r"'/a\b/walpush' %p", &[r"/a\b/walpush", "%p"], &[]),
        (r#""/a\b\\c/walpush" %p"#, &[r"/a\b\c/walpush", "%p"], &[]),
        (r"'/it'\''s/walpush' %p", &["/it's/walpush", "%p"], &[]),
        ("walpush %p 2>&1 >>'/var/log/a;b'", &["walpush", "%p"], &[]),
        ("walpush %p || true", &["walpush", "%p", "true"], &["||"]),
        ("walpush %p;true&", &["walpush", "%p", "true"], &[";", "&"]),
        ("walpush %p # ; comment", &["walpush", "%p"], &[]),
        ("walpush %p;", &["walpush", "%p"], &[]),
    ];
    for (text, words, operators) in cases {
        let command = ShellCommand::parse(text);
        let expected = ShellCommand {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            operators: operators.iter().map(|word| (*word).to_owned()).collect(),
        };
        assert_eq!(command, Some(expected), "{text}");
    }
    assert_eq!(ShellCommand::parse("walpush '%p"), None);
}

#[test]
fn the_program_and_the_placeholders_are_found() {
    let command = ShellCommand::parse("TZ=UTC /opt/x=y/walpush --config 50%%p %f");
    let command = command.as_ref();
    assert_eq!(command.and_then(ShellCommand::program), Some("/opt/x=y/walpush"));
    assert!(command.is_some_and(|command| command.has_placeholder('f') && !command.has_placeholder('p')));
}
