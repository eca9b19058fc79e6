//! Gives the binary a run-time search path to the libpython it was built for, and says which one that is.

fn main() {
    pyo3_build_config::add_libpython_rpath_link_args();
    pyo3_build_config::use_pyo3_cfgs();
    if let Some(python) = pyo3_build_config::get().executable() {
        println!("cargo:rustc-env=MAYPOLE_PYTHON={python}");
    }
}
