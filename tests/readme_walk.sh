#!/usr/bin/env bash
# Walks through README.md as a newcomer: a fresh clone, an empty home, nothing installed, every
# command taken from README.md itself and pasted as written, its output checked.
#
#   tests/readme_walk.sh                 all but what takes an hour; needs PyPI, git, make, python3
#   tests/readme_walk.sh --all           that too
#   tests/readme_walk.sh 'make demo'   only these, by how they begin
#   tests/readme_walk.sh --list [FILE]   what would be done with each command of FILE (README.md)
#
# The working tree must be committed: what is walked through is a clone of HEAD. Exits with 1 where
# a command fails or does not print what it should, or where nobody said what to do with it.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# What is done with a command: `run MINUTES PATTERN...`, each an extended regular expression that a
# line of its output must match, or `skip REASON`. The first that fits counts. Python blocks are
# `python block-N.py`, numbered in the order of the text.
decide() {
  case $1 in
    'make demo'*)
      # The runs that README shows, and the ones that no training touches to the digit.
      run 8 'teacher fixed:1 .* 99\.0 % .* 64\.0 .* 1\.0×' \
        'student confidence:0\.95 .* [0-9.]+×' 'was chosen on 200 validation problems' \
        'report: runs/demo/report.html'
      ;;
    'make test'*) run 12 '[0-9]+ passed' ;;
    '. .venv/bin/activate'*) run 0 ;;
    'python block-1.py' | *LLaDA-8B-Instruct*) skip 'needs the weights of LLaDA-8B' ;;
    'cd4lm serve') skip 'serves until it is stopped' ;;
    'python block-2.py') run 1 '^#### 4$' '^[0-9]+ \[' 'pass [0-9]+ of [0-9]+' ;;
    'python block-3.py') run 5 ;;
    'cd4lm decode --prompt='*) run 1 '#### 8' 'pass [0-9]+ of [0-9]+' ;;
    'cd4lm distill --config=gsm_mini') skip 'what the last Python block does' ;;
    'make docs') run 1 'build/docs/index\.html' ;;
    *) return 1 ;;
  esac
}

# The Python blocks as files.
prepare() {
  awk '
    /^```/ { inside = !inside && $0 == "```python"; if (inside) number++; next }
    inside { print > ("block-" number ".py") }' README.md
}

# The commands of a file, one a line in the order of the text (a continued line as one): those of
# sh blocks, the Python blocks, and those within a sentence.
commands() {
  awk '
    function add(command, name) {
      gsub(/ +/, " ", command); name = command; sub(/ #.*/, "", name)
      if (name != "" && !added[name]++) print command
    }
    /^```/ {
      kind = kind ? "" : substr($0, 4)
      if (kind == "python") add("python block-" ++blocks ".py")
      next
    }
    kind == "sh" { line = line $0; if (!sub(/\\$/, "", line)) { add(line); line = "" }; next }
    kind { next }
    {
      text = rest $0; rest = ""
      while (match(text, /`[^`]*`/)) {
        span = substr(text, RSTART + 1, RLENGTH - 2); text = substr(text, RSTART + RLENGTH)
        if (span ~ /^(make|cd4lm|python -m|pip install) /) add(span)
      }
      if (text ~ /`/ && $0 != "") rest = text " "
    }' "$1"
}

run() { minutes=$1 patterns=("${@:2}") reason=''; }
skip() { minutes=0 patterns=() reason=$1; }

list() {
  local command unknown=0
  while IFS= read -r command; do
    if ! decide "$command"; then
      printf 'unknown\t%s\n' "$command"
      unknown=1
    elif [[ -n $reason ]]; then
      printf 'left out\t%s\t%s\n' "$command" "$reason"
    else
      printf 'walked\t%s\t%d min\n' "$command" "$minutes"
    fi
  done < <(commands "$1")
  return "$unknown"
}

# Within the clone, in the empty environment. `eval` and not a shell for each command: activating
# an environment is meant to last.
walk() {
  local command pattern failed=0
  list README.md >plan.txt || { grep '^unknown' plan.txt && return 1; }
  prepare
  ((${#WANTED[@]})) && make --silent setup
  while IFS= read -r command <&3; do
    decide "$command"
    [[ $ALL == no ]] && ((minutes > 30)) && reason="$minutes minutes; --all runs it"
    is_wanted "$command" || reason=${reason:-not asked for}
    if [[ -n $reason ]]; then
      echo "-- left out: $command ($reason)"
      continue
    fi
    echo "== $command"
    SECONDS=0
    if ! eval "$command" >output.txt 2>&1 </dev/null; then
      echo "   FAILED after $SECONDS s:"
      tail -n 20 output.txt
      failed=1
      continue
    fi
    for pattern in "${patterns[@]}"; do
      if ! grep -qE -e "$pattern" output.txt; then
        echo "   FAILED: no line matches $pattern; the last ones:"
        tail -n 20 output.txt
        failed=1
      fi
    done
    echo "   $SECONDS s"
  done 3< <(commands README.md)
  return "$failed"
}

is_wanted() {
  local beginning
  ((${#WANTED[@]})) || return 0
  for beginning in '. .venv/bin/activate' "${WANTED[@]}"; do
    [[ $1 == "$beginning"* ]] && return 0
  done
  return 1
}

main() {
  case ${1-} in
    --list) list "${2:-$ROOT/README.md}"; exit ;;
    --inside) ALL=$2 WANTED=("${@:3}"); walk; exit ;;
    --all) set -- yes ;;
    *) set -- no "$@" ;;
  esac
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  mkdir "$scratch/home"
  git clone --quiet "$ROOT" "$scratch/cd4lm_jax"
  cd "$scratch/cd4lm_jax"
  # Of the surroundings only what a machine may need to reach PyPI.
  env -i HOME="$scratch/home" PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 \
    ${SSL_CERT_FILE:+SSL_CERT_FILE="$SSL_CERT_FILE"} ${https_proxy:+https_proxy="$https_proxy"} \
    bash tests/readme_walk.sh --inside "$@"
}

main "$@"
