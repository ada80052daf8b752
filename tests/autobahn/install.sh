#!/usr/bin/env bash
# Makes the CPython 2.7 environment that Autobahn|Testsuite needs, and prints the path of its `wstest`.
# The suite's last wheel installs on Python 3 but cannot be imported there, so the versions are pinned to the
# last ones that work together on 2.7.
#   install.sh DIRECTORY              makes it, unless it is there
#   install.sh --installed DIRECTORY  exit 0 if it is there
#   install.sh --python               prints the CPython 2.7 that would be used
# Exit 3: there is no CPython 2.7 on this machine (the caller decides whether that is a skip).
set -euo pipefail

usage="usage: install.sh DIRECTORY | --installed DIRECTORY | --python"
mode=create
case ${1:?$usage} in
--installed) mode=installed venv=${2:?$usage} ;;
--python) mode=python venv= ;;
*) venv=$1 ;;
esac
stamp="$venv/.complete-1"

if [[ $mode != python && -e $stamp ]] && "$venv/bin/wstest" --help >/dev/null 2>&1; then
    [[ $mode == installed ]] || echo "$venv/bin/wstest"
    exit 0
fi
[[ $mode != installed ]] || exit 1

python=
for candidate in "${PYTHON27:-}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python python2.7; do
    if [[ -n $candidate ]] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
done
if [[ -z $python ]]; then
    echo "no CPython 2.7 found (tried \$PYTHON27, pyenv's 2.7*, python2.7)" >&2
    exit 3
fi
if [[ $mode == python ]]; then
    echo "$python"
    exit 0
fi

# The last virtualenv that can make a 2.7 environment runs on Python 3 and is itself only a tool for this step.
rm -rf "$venv" "$venv-tool"
python3 -m venv "$venv-tool" >&2
"$venv-tool/bin/pip" install --quiet virtualenv==20.15.1 >&2
"$venv-tool/bin/virtualenv" --quiet --python "$python" --setuptools 44.0.0 --no-periodic-update "$venv" >&2
rm -rf "$venv-tool"

pip=("$venv/bin/pip" install --quiet --disable-pip-version-check)
"${pip[@]}" setuptools==44.0.0 wheel incremental==16.10.1 >&2
"${pip[@]}" cffi==1.15.1 >&2 || true
"${pip[@]}" --no-build-isolation txaio==2.1.0 pyOpenSSL==19.1.0 cryptography==3.3.2 Twisted==19.10.0 \
    zope.interface==4.6.0 jinja2==2.11.3 markupsafe==1.1.1 Werkzeug==1.0.1 klein==17.10.0 \
    service_identity==18.1.0 unittest2==1.1.0 six==1.16.0 'autobahn[twisted,accelerate]==0.10.9' >&2
"${pip[@]}" --no-deps --no-build-isolation autobahntestsuite==25.10.1 >&2
"$venv/bin/wstest" --help >/dev/null
touch "$stamp"
echo "$venv/bin/wstest"
