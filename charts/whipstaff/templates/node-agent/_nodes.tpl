{{/* What nodes are told apart by: those of this release, and how they are run. */}}

{{- define "whipstaff.nodeLabels" -}}
whipstaff.io/release: {{ .root.Release.Namespace }}.{{ .root.Release.Name }}
whipstaff.io/mode: {{ .values.mode }}
{{- with .values.nodeLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The DNS server of the cluster, as nodes hand it to pods. */}}
{{- define "whipstaff.clusterDNS" -}}
{{- $given := .values.twin.clusterDNS -}}
{{- if $given -}}
{{- $given -}}
{{- else -}}
{{- $service := lookup "v1" "Service" "kube-system" "kube-dns" -}}
{{- default "10.96.0.10" (dig "spec" "clusterIP" "" (default dict $service)) -}}
{{- end -}}
{{- end -}}

{{- define "whipstaff.agentConfig" -}}
apiVersion: whipstaff.io/v1alpha1
kind: NodeAgentConfiguration
nodes:
  addressType: {{ .values.addressType }}
  labels:
    {{- include "whipstaff.nodeLabels" . | nindent 4 }}
  {{- with .values.nodeTaints }}
  taints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- if eq .values.mode "simulated" }}
  {{- with .values.simulated.capacity }}
  capacity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
provider:
  jobSeconds: {{ .values.simulated.jobSeconds }}
{{- else }}
  {{- with .values.twin.reserved }}
  reserved:
    {{- toYaml . | nindent 4 }}
  {{- end }}
cgroups:
  root: /whipstaff-twin/pods
  driver: cgroupfs
podLogsDir: {{ .values.twin.dataDir }}/logs
{{- end }}
{{- end -}}
