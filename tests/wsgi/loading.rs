//! Applications found by their name.

use maypole::wsgi::load::{LoadError, load, prepare_path};

use crate::app::python;

#[test]
fn load_finds_applications_and_says_what_is_wrong() {
    python(|py| {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "ld_good.py",
            "def app(e, s): pass\nclass N: inner = app\ndef make(x=1, *, y=2): return app\nvalue = 5\n_hidden = app\n",
        );
        write("ld_default.py", "def application(e, s): pass\n");
        write("ld_broken.py", "import nothing_of_that_name\n");
        write("ld_syntax.py", "def (\n");
        write("ld_empty.py", "import os\nvalue = 5\n");
        prepare_path(py, dir.path(), &[]).unwrap();
        for spec in
            ["ld_good:app", "ld_good", "ld_default", "ld_good:N.inner", "ld_good:make()", "ld_good:make('x', y=[1])"]
        {
            load(py, spec, false).unwrap_or_else(|error| panic!("{spec}: {error}"));
        }
        load(py, "ld_good:make", true).unwrap();
        let file = format!("{}/ld_good.py:app", dir.path().display());
        load(py, &file, false).unwrap();
        let fails = |spec: &str, kind: fn(&LoadError) -> bool, words: &[&str]| {
            let error = load(py, spec, false).unwrap_err();
            let text = error.to_string();
            assert!(kind(&error) && words.iter().all(|word| text.contains(word)), "{spec}: {error:?}");
        };
        fails("ld_missing:app", |e| matches!(e, LoadError::NotFound(_)), &["ld_missing"]);
        fails("ld_missing.sub", |e| matches!(e, LoadError::NotFound(_)), &["'ld_missing'"]);
        fails(
            "ld_broken:app",
            |e| matches!(e, LoadError::Failed { .. }),
            &["ld_broken", "nothing_of_that_name", "Traceback"],
        );
        fails("ld_syntax:app", |e| matches!(e, LoadError::Failed { .. }), &["SyntaxError"]);
        fails("ld_good:nope", |e| matches!(e, LoadError::NotFound(_)), &["'nope'", "app, make"]);
        fails("ld_empty", |e| matches!(e, LoadError::NotFound(_)), &["neither 'application' nor 'app'", "nothing"]);
        fails("ld_good:value", |e| matches!(e, LoadError::NotCallable(_)), &["ld_good:value", "int"]);
        fails("ld_good:make(app)", |e| matches!(e, LoadError::Malformed(_)), &["literal"]);
        fails("ld_good:make(1, 2, 3)", |e| matches!(e, LoadError::Failed { .. }), &["TypeError"]);
        fails("", |e| matches!(e, LoadError::Malformed(_)), &[]);
        fails("no/such/file.py:app", |e| matches!(e, LoadError::NotFound(_)), &["no/such/file.py"]);
    });
}
