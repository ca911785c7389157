#compdef lensd
# Completion of lensd's commands, options and LoRA files, for zsh.
# `lensd completion zsh` prints this script. click lists words; zsh itself completes file names.

_lensd() {
    (( $+commands[lensd] )) || return 1
    local -a answers described plain
    local type key description
    answers=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) \
        _LENSD_COMPLETE=zsh_complete lensd)}")
    for type key description in $answers; do
        case $type in
            plain)
                if [[ $description == _ ]]; then
                    plain+=("$key")
                else
                    described+=("$key:$description")
                fi
                ;;
            file) _path_files -f ;;
            dir) _path_files -/ ;;
            lora) _path_files -g '*.safetensors(-.) *(-/)' ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described -U
    (( $#plain )) && compadd -U -V unsorted -a plain
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _lensd "$@"
else
    compdef _lensd lensd
fi
