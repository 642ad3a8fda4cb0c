{{ $only := index (.metadata.annotations | default dict) "e2e.disaggregatedset.dev/container" | default "" }}
{{ $names := list }}
{{ range .spec.containers }}{{ if or (not $only) (eq $only .name) }}{{ $names = append $names .name }}{{ end }}{{ end }}
