initContainerStatuses:
{{ range .spec.initContainers }}
{{ $sidecar := eq (.restartPolicy | default "") "Always" }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  # include: image
  ready: true
  restartCount: 0
  started: {{ $sidecar }}
  state:
    {{ if $sidecar }}
    running:
      startedAt: {{ $.status.startTime | default $now | Quote }}
    {{ else }}
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ $.status.startTime | default $now | Quote }}
      finishedAt: {{ $.status.startTime | default $now | Quote }}
    {{ end }}
{{ end }}
