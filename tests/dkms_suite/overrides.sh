# shellcheck shell=bash
# Sourced by DKMS's run_test.sh after its own functions: what the suite compares is noted, in lines that begin with @@, and it goes
# on after a difference. Fields are separated by tabs; the first after the word is the line of run_test.sh.
#
#   @@CODE line expected got command      an exit code
#   @@STATUS line same|other module expected got
#                                         lines of `dkms status`, joined by " ; "
#   @@TEXT line same|other command        what a command printed
#   @@CHECK line words                    anything else that was not as expected: a file, mostly

set +e

note() {
    local IFS=$'\t'
    printf '@@%s\n' "$*"
}

# The line of run_test.sh from which a function was called.
line() {
    local at
    for at in "${!BASH_SOURCE[@]}"; do
        [[ ${BASH_SOURCE[at]} != */overrides.sh && ${FUNCNAME[at]} = main ]] && { echo "${BASH_LINENO[at - 1]}"; return; }
    done
    echo 0
}

run_with_expected_error() {
    local expected=$1 got=0 text=same
    shift
    cat >test_cmd_expected_output.log
    timeout 300 stdbuf -o L -e L "$@" >test_cmd_output.log 2>&1 || got=$?
    note CODE "$(line)" "$expected" "$got" "$*"
    if [[ $got != "$expected" ]]; then head -n 15 test_cmd_output.log; fi
    generalize_expected_output test_cmd_output.log "${2-}"
    diff -U3 test_cmd_expected_output.log test_cmd_output.log || text=other
    note TEXT "$(line)" "$text" "$*"
    rm test_cmd_expected_output.log test_cmd_output.log
}

run_status_with_expected_output() {
    local expected got same=same
    expected=$(cat)
    got=$(dkms_status_grep_dkms_module "$1" 2>&1)
    [[ $expected = "$got" ]] || same=other
    note STATUS "$(line)" "$same" "$1" "${expected//$'\n'/ ; }" "${got//$'\n'/ ; }"
}

check_make_log_content() {
    local text=same
    cat >test_cmd_expected_output.log
    if [[ ! -f $1 ]]; then
        cat >/dev/null
        note CHECK "$(line)" "there is no $1"
        return
    fi
    cat "$1" >test_cmd_output.log
    generalize_make_log test_cmd_output.log
    diff -U3 test_cmd_expected_output.log test_cmd_output.log || text=other
    note TEXT "$(line)" "$text" "make.log"
}

# What the suite ends with when a check of its own fails: the line before has the words.
exit() {
    local at=${BASH_LINENO[0]} words
    words=$(sed -n "$((at - 1))p" "${BASH_SOURCE[1]}" | sed -n 's/.*Error: \(.*\)".*/\1/p')
    eval "words=\"${words//\"/}\"" 2>/dev/null
    note CHECK "$(line)" "${words:-run_test.sh:$at}"
}
