{{/* What nodes are told apart by: those of this release, and how they are run. */}}

{{- define "whipstaff.nodeLabels" -}}
whipstaff.io/release: {{ .root.Release.Namespace }}.{{ .root.Release.Name }}
whipstaff.io/mode: {{ .values.mode }}
{{- with .values.nodeLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* How a twin's agent asks for its certificate: as the pod's account. */}}
{{- define "whipstaff.bootstrapKubeconfig" -}}
{{- $service := lookup "v1" "Service" "default" "kubernetes" -}}
{{- $address := default "10.96.0.1" (dig "spec" "clusterIP" "" (default dict $service)) -}}
{{- $host := ternary (printf "[%s]" $address) $address (contains ":" $address) -}}
apiVersion: v1
kind: Config
clusters:
  - name: cluster
    cluster:
      server: {{ default (printf "https://%s:443" $host) .values.twin.apiServer }}
      certificate-authority: /var/run/secrets/kubernetes.io/serviceaccount/ca.crt
users:
  - name: account
    user:
      tokenFile: /var/run/secrets/kubernetes.io/serviceaccount/token
contexts:
  - name: account
    context: {cluster: cluster, user: account}
current-context: account
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
healthzPort: 0
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
{{- end }}
{{- end -}}
