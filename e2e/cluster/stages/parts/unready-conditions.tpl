conditions:
{{ range list "PodReadyToStartContainers" "Initialized" }}
- type: {{ . }}
  status: "True"
  lastTransitionTime: {{ $.status.startTime | default $now | Quote }}
{{ end }}
{{ range list "ContainersReady" "Ready" }}
- type: {{ . }}
  status: "False"
  reason: ContainersNotReady
  message: {{ printf "containers with unready status: [%s]" (join " " $names) | Quote }}
  lastTransitionTime: {{ $.status.startTime | default $now | Quote }}
{{ end }}
