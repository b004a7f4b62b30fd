{{- /* The name of all objects. */ -}}
{{- define "gpucost.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "gpucost" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-gpucost" (.Release.Name | trunc 44 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{- /* Where all objects but the cluster-wide ones are. */ -}}
{{- define "gpucost.namespace" -}}
{{- .Values.namespaceOverride | default .Release.Namespace -}}
{{- end -}}

{{- /* What never changes over the life of a release: DaemonSet selectors cannot be changed. */ -}}
{{- define "gpucost.selectorLabels" -}}
app.kubernetes.io/name: gpucost
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- /*
Labels of what Prometheus may copy onto a target: pods and the Service. Versions are left out: with
them every upgrade would begin new series, and restart the pods for a label.
*/ -}}
{{- define "gpucost.lastingLabels" -}}
{{- $own := dict "app.kubernetes.io/component" "exporter" "app.kubernetes.io/part-of" "gpucost" -}}
{{- toYaml (merge (include "gpucost.selectorLabels" . | fromYaml) $own .Values.commonLabels) -}}
{{- end -}}

{{- define "gpucost.labels" -}}
{{- $versions := dict
  "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" .Chart.AppVersion
  "app.kubernetes.io/managed-by" .Release.Service -}}
{{- toYaml (merge $versions (include "gpucost.lastingLabels" . | fromYaml)) -}}
{{- end -}}

{{- define "gpucost.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "gpucost.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "gpucost.image" -}}
{{- $registry := .Values.global.imageRegistry | default .Values.image.registry -}}
{{- $name := .Values.image.repository -}}
{{- if $registry -}}{{- $name = printf "%s/%s" (trimSuffix "/" $registry) $name -}}{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $name .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{- /* Where a CronJob's pod may run. */ -}}
{{- define "gpucost.jobPlacement" -}}
{{- $jobs := default dict .Values.jobs -}}
{{- with $jobs.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $jobs.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Pull secrets as a pod names them; given as text or as {name: text}. */ -}}
{{- define "gpucost.imagePullSecrets" -}}
{{- $secrets := list -}}
{{- range concat .Values.global.imagePullSecrets .Values.imagePullSecrets -}}
{{- $secrets = append $secrets (ternary (dict "name" .) . (kindIs "string" .)) -}}
{{- end -}}
{{- if $secrets -}}{{- toYaml (uniq $secrets) -}}{{- end -}}
{{- end -}}

{{- /* The settings that the exporter gets. */ -}}
{{- define "gpucost.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if eq .Values.driver.mode "none" -}}
{{- $config = mergeOverwrite $config (dict "nvml" (dict "enabled" false)) -}}
{{- end -}}
{{- if include "gpucost.refreshesPrices" . -}}
{{- $prices := dict "prices" (dict "catalogue_file" "/etc/gpucost-prices/prices.txt") -}}
{{- $config = merge $config $prices -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* "true" if the job is there, else empty; values of an older chart know nothing of it. */ -}}
{{- define "gpucost.refreshesPrices" -}}
{{- if (default dict .Values.priceRefresh).enabled -}}true{{- end -}}
{{- end -}}

{{- /* Of everything that the renewed price list needs. */ -}}
{{- define "gpucost.pricesName" -}}
{{- printf "%s-prices" (include "gpucost.fullname" . | trunc 44 | trimSuffix "-") -}}
{{- end -}}

{{- /* "true" if the kubelet is asked who holds the GPUs, else empty; likewise the API server. */ -}}
{{- define "gpucost.asksKubelet" -}}
{{- if dig "kubelet" "enabled" true .Values.config -}}true{{- end -}}
{{- end -}}
{{- define "gpucost.asksCluster" -}}
{{- if dig "kubernetes" "enabled" true .Values.config -}}true{{- end -}}
{{- end -}}

{{- /* Node selection: one term a label, and any one term is enough. */ -}}
{{- define "gpucost.affinity" -}}
{{- $affinity := deepCopy .Values.affinity -}}
{{- if not (hasKey $affinity "nodeAffinity") -}}
{{- $terms := list -}}
{{- if .Values.gpuNodes.labelledOnly -}}
{{- if not .Values.gpuNodes.labels -}}
{{- fail "gpuNodes.labels is empty, so no node is a GPU node. Name a label, or set gpuNodes.labelledOnly=false." -}}
{{- end -}}
{{- range $label, $values := .Values.gpuNodes.labels -}}
{{- $match := dict "key" $label "operator" "Exists" -}}
{{- if $values -}}{{- $match = dict "key" $label "operator" "In" "values" $values -}}{{- end -}}
{{- $terms = append $terms (dict "matchExpressions" (list $match)) -}}
{{- end -}}
{{- else -}}
{{- /* Nodes that are no machines cannot run a DaemonSet's pod. */ -}}
{{- $terms = list (dict "matchExpressions" (list
  (dict "key" "eks.amazonaws.com/compute-type" "operator" "NotIn" "values" (list "fargate"))
  (dict "key" "type" "operator" "NotIn" "values" (list "virtual-kubelet")))) -}}
{{- end -}}
{{- $_ := set $affinity "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms)) -}}
{{- end -}}
{{- toYaml $affinity -}}
{{- end -}}

{{- /* As tight as it works; the user's values go over it. */ -}}
{{- define "gpucost.podSecurityContext" -}}
{{- toYaml (mergeOverwrite (dict "seccompProfile" (dict "type" "RuntimeDefault")) .Values.podSecurityContext) -}}
{{- end -}}
{{- define "gpucost.securityContext" -}}
{{- $context := dict "readOnlyRootFilesystem" true -}}
{{- /* The kubelet makes its socket's folder 0750 root:root (k8s.io/cri-client, CreateListener). */ -}}
{{- if include "gpucost.asksKubelet" . -}}
{{- $context = merge $context (dict "runAsUser" 0 "runAsGroup" 0 "runAsNonRoot" false) -}}
{{- else -}}
{{- $context = merge $context (dict "runAsUser" 65532 "runAsGroup" 65532 "runAsNonRoot" true) -}}
{{- end -}}
{{- if and (eq .Values.driver.mode "hostPath") .Values.driver.hostPath.privileged -}}
{{- $context = merge $context (dict "privileged" true) -}}
{{- end -}}
{{- $context = mergeOverwrite $context .Values.securityContext -}}
{{- /* The API server refuses these beside `privileged`, which overrides them anyway. */ -}}
{{- if not $context.privileged -}}
{{- $context = merge $context (dict "allowPrivilegeEscalation" false "capabilities" (dict "drop" (list "ALL"))) -}}
{{- end -}}
{{- toYaml $context -}}
{{- end -}}

{{- /*
"hostPath" where the ledger is on the node's disk, "emptyDir" where only root could write there, else
empty. Values of an older chart know nothing of it: their users get it too.
*/ -}}
{{- define "gpucost.state" -}}
{{- $state := default dict .Values.state -}}
{{- if ne (toString $state.enabled) "false" -}}
{{- ternary "hostPath" "emptyDir" (not (empty (include "gpucost.asksKubelet" .))) -}}
{{- end -}}
{{- end -}}

{{- /*
Fails where the cluster does not have the kind that a value asks for, with who brings it. Only a
cluster lists kinds: `helm template` knows API versions alone, and is let through.
*/ -}}
{{- define "gpucost.needs" -}}
{{- $known := .root.Capabilities.APIVersions -}}
{{- if and ($known.Has "apps/v1/DaemonSet") (not ($known.Has .kind)) -}}
{{- fail (printf "%s needs %s, which this cluster does not know: install %s first, or %s." .value .kind .maker .instead) -}}
{{- end -}}
{{- end -}}

{{- /* "https" or "http": how the exporter is asked. */ -}}
{{- define "gpucost.scheme" -}}
{{- ternary "https" "http" (not (empty (default dict .Values.web).tls)) -}}
{{- end -}}

{{- /*
What a scrape's target is called: its node. What Prometheus copies from the exporter's own pod changes
with every rollout, and would begin every series anew.
*/ -}}
{{- define "gpucost.relabelings" -}}
{{- $monitor := default dict .Values.scrape.monitor -}}
- sourceLabels: [__meta_kubernetes_pod_node_name]
  targetLabel: instance
- targetLabel: job
  replacement: gpucost
{{- with .Values.clusterName }}
- targetLabel: cluster
  replacement: {{ . | quote }}
{{- end }}
- action: labeldrop
  regex: pod|container|endpoint|service|namespace|node
{{- with $monitor.relabelings }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* What asks a Prometheus that follows annotations to scrape. */ -}}
{{- define "gpucost.scrapeAnnotations" -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .Values.port | quote }}
prometheus.io/path: /metrics
{{- end -}}
